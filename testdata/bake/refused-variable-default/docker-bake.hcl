variable "LIST" {
  type = list(number)
  default = ["a"]
}
target "default" {}

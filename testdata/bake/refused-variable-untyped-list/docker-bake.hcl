variable "LIST" {
  default = ["a"]
}
target "default" {}

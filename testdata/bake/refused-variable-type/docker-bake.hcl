variable "LIST" {
  type = list(strin)
}
target "default" {}

variable "A" {
  default = B
}
variable "B" {
  default = "x${A}"
}
target "default" {}

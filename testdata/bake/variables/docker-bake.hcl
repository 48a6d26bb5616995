variable "TAG" {
  default = "latest"
}
variable "EMPTY" {}
variable "REGISTRY" {
  description = "Where to push"
  default = null
}
variable "COUNT" {
  default = 3
}
variable "RATIO" {
  default = 1.50
}
variable "DEBUG" {
  default = false
}
variable "REPO" {
  default = "${REGISTRY == null ? "" : "${REGISTRY}/"}example"
}
prefix = "pre-${TAG}"
list = ["a", TAG]
target "default" {
  tags = ["${REPO}:${TAG}", "${prefix}:${COUNT}"]
  args = {
    EMPTY = EMPTY
    COUNT = COUNT + 1
    RATIO = RATIO
    DEBUG = DEBUG ? "yes" : "no"
    NULL  = REGISTRY
    ITEM  = list[1]
    LAST  = list[length(list) - 1]
  }
}

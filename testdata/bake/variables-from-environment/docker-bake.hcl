variable "TAG" {
  default = "latest"
}
variable "COUNT" {
  default = 3
}
variable "DEBUG" {
  default = false
}
variable "NONE" {
  default = null
}
variable "WHERE" {}
variable "SET_BY_VAR" {
  default = "file"
}
attribute = "file"
target "default" {
  args = {
    TAG = TAG
    COUNT = COUNT + 1
    DEBUG = !DEBUG
    NONE = NONE
    WHERE = WHERE
    VAR = SET_BY_VAR
    ATTRIBUTE = attribute
  }
}

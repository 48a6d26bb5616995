variable "TAG" {
  default = "v1.2"
  validation {
    condition     = TAG != ""
    error_message = "TAG must not be empty"
  }
  validation {
    condition     = can(regex("^v[0-9.]+$", TAG))
    error_message = "TAG must be a version, not ${TAG}"
  }
}
variable "OTHER" {
  default = "o"
  validation {
    condition     = OTHER != TAG
    error_message = "They must differ"
  }
}
target "default" {
  tags = ["app:${TAG}"]
}

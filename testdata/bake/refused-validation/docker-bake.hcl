variable "TAG" {
  default = "latest"
  validation {
    condition     = can(regex("^v[0-9.]+$", TAG))
    error_message = "TAG must be a version, not ${TAG}"
  }
}
target "default" {
  tags = ["app:${TAG}"]
}

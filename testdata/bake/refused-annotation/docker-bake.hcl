target "default" {
  annotations = ["title"]
}

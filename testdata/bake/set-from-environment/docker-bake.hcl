target "default" {
  args = { KEPT = "file", MISSING = "file" }
}

target "base" {
  args = { A = "file" }
}
target "app" {
  inherits = ["base"]
}

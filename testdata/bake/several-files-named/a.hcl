target "default" {
  args = { A = "a", X = "a" }
}

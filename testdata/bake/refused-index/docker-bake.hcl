parts = ["a", "b"]
target "default" {
  args = { A = parts[2] }
}

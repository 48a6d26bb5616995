target "default" {
  args = { A = true ? "a" : ["b"] }
}

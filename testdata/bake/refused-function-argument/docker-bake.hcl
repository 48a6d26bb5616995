target "default" {
  args = { A = join(",", "abc") }
}

target "app" {
  matrix = { item = ["a", "b"] }
}

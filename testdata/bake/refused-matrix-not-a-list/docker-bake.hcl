target "app" {
  name = "app-${item}"
  matrix = { item = "a" }
}

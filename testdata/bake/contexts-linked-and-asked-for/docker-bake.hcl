group "default" {
  targets = ["app", "base"]
}
target "base" {
  output = ["type=registry"]
}
target "app" {
  contexts = { base = "target:base" }
}

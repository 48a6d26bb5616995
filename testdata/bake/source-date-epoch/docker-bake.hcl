group "default" {
  targets = ["a", "b"]
}
target "a" {
  args = { SOURCE_DATE_EPOCH = "1" }
}
target "b" {}

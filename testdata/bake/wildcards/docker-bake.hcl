group "test-all" {
  targets = ["test-a"]
}
target "test-a" {}
target "test-b" {}
target "lint-a" {}
target "x1" {}
target "x2" {}

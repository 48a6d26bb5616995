group "default" {
  targets = ["web"]
}
group "back" {
  targets = ["api"]
}
target "web" {}
target "api" {}
target "other" {}

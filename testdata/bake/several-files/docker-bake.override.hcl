variable "TAG" {
  default = "two"
}
common = "second"
target "app" {
  args = { B = "two" }
  cache-from = ["b"]
  labels = { x = target.app.args.B }
}
target "more" {}
group "default" {
  targets = ["more", "app"]
}

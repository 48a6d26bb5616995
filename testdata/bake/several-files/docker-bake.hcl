variable "TAG" {
  default = "one"
}
common = "first"
target "app" {
  args = { A = TAG, B = "one", C = common }
  tags = ["app"]
  cache-from = ["a"]
}
group "default" {
  targets = ["app"]
}

target "app" {
  tags = ["app"]
  args = { A = "file" }
  platforms = ["linux/amd64"]
  cache-from = ["file"]
  secret = ["id=token,env=FILE"]
  output = ["type=docker"]
  annotations = ["a=1"]
}
target "api" {
  tags = ["api"]
}
target "web" {}
group "default" {
  targets = ["app", "api", "web"]
}

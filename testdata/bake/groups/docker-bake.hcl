group "default" {
  targets = ["back", "web", "web"]
}
group "back" {
  description = "What runs behind"
  targets = ["api", "tools"]
}
group "tools" {
  targets = ["migrate", "api"]
}
group "unused" {
  targets = ["other"]
}
target "web" {}
target "api" {
  dockerfile = "api.Dockerfile"
}
target "migrate" {}
target "other" {}

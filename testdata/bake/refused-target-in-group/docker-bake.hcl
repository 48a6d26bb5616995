group "default" {
  targets = ["app", "databse"]
}
target "app" {}
target "database" {}

group "app" {
  targets = ["app", "db"]
}
target "app" { 
  tags = ["app"] 
}
target "db" {}

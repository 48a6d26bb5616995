target "my app" {}

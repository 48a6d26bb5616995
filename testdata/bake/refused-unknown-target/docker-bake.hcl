target "webapp" {}
target "api" {}

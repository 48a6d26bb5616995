target "default" {
  tags = "app"
}

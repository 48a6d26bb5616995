target "base" {}
target "default" {
  dockerfile = target.bse.dockerfile
}

target "default" {
  dockerfle = "x"
  block "y" {}
}
unknown "block" {
  a = 1
}

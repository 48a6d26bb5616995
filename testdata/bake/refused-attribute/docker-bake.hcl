image = { name = "x", port = 80 }
target "default" {
  args = { A = image.nme }
}

variable "IMAGES" {
  default = [
    { name = "web", port = 80 },
    { name = "api", port = 8080 },
  ]
}
target "image" {
  name   = image.name
  matrix = { image = IMAGES }
  args   = { PORT = image.port }
  labels = { for k, v in image : "item.${k}" => v }
}

group "default" {
  targets = ["none", "image", "docker", "local", "registry"]
}
target "none" {}
target "image" {
  output = ["type=image,name=x"]
}
target "docker" {
  output = ["type=docker"]
}
target "local" {
  output = ["type=local,dest=out"]
}
target "registry" {
  output = ["type=registry", "type=oci,dest=x.tar"]
}

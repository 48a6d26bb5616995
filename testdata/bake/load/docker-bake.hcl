group "default" {
  targets = ["none", "image", "docker", "tar", "local"]
}
target "none" {}
target "image" {
  output = ["type=image,name=x"]
}
target "docker" {
  output = ["type=docker"]
}
target "tar" {
  output = ["type=docker,dest=x.tar"]
}
target "local" {
  output = ["type=local,dest=out"]
}

target "default" {
  output = ["type=registry", "type=image,name=x,push=true", "type=local,dest=out"]
}

target "base" {
  dockerfile = "base.Dockerfile"
  output = ["type=registry"]
  entitlements = ["network.host"]
  platforms = ["linux/amd64", "linux/arm64"]
}
target "mid" {
  contexts = { base = "target:base" }
  platforms = ["linux/arm64", "linux/amd64"]
}
target "app" {
  contexts = { mid = "target:mid", image = "docker-image://alpine" }
  output = ["type=local,dest=out"]
}

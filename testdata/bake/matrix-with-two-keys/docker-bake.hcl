target "t" {
  name = "${os}_${arch}"
  matrix = {
    os   = ["linux"]
    arch = ["amd64", "arm64"]
  }
  platforms = ["${os}/${arch}"]
}

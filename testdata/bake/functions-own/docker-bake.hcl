function "tag" {
  params = [name, version]
  result = ["${REPO}/${name}:${version}", latest(name)]
}
function "latest" {
  params = [name]
  result = "${REPO}/${name}:latest"
}
function "join_all" {
  params          = [separator]
  variadic_params = parts
  result          = join(separator, parts)
}
function "platforms" {
  params = []
  result = [for arch in ["amd64", "arm64"] : "linux/${arch}"]
}
function "upper" {
  params = [x]
  result = "mine ${x}"
}
variable "REPO" {
  default = "example"
}
target "default" {
  tags = tag("app", "v${add(1, 1)}")
  platforms = platforms()
  args = {
    JOINED = join_all("-", "a", "b", "c")
    NONE   = join_all("-")
    SPREAD = join_all(["+", "x", "y"]...)
    UPPER  = upper("a")
  }
}

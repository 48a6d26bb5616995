group "default" {
  targets = ["git", "cwd", "short", "scp", "up", "image", "absolute", "old"]
}
target "git" {
  context = "https://github.com/docker/buildx.git#v0.1:sub/../x"
}
target "cwd" {
  context = "cwd://a/../b/"
}
target "short" {
  context = "git://example.org/x.git"
}
target "scp" {
  context = "git@github.com:docker/buildx.git"
}
target "up" {
  context = "../../x//y/"
}
target "image" {
  context = "docker-image://alpine"
}
target "absolute" {
  context = "/a/./b/../.."
}
target "old" {
  context = "github.com/docker/buildx"
}

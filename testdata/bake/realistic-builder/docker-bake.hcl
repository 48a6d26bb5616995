# The shape of a project that is one builder for many things: common targets, groups of checks, cross builds.
variable "GO_VERSION" {
  default = null
}
variable "DOCS_FORMATS" {
  default = "md,yaml"
}
variable "DESTDIR" {
  default = "./bin"
}
variable "IMAGE" {
  default = "example/builder"
}
variable "MATRIX" {
  default = ["lint", "vendor", "docs"]
}
function "bindir" {
  params = [defaultdir]
  result = DESTDIR != "" ? DESTDIR : "./bin/${defaultdir}"
}
function "slug" {
  params = [values]
  result = substr(md5(join("-", values)), 0, 8)
}
target "meta-helper" {
  tags = ["${IMAGE}:local"]
}
target "_common" {
  args = {
    GO_VERSION                    = GO_VERSION
    BUILDKIT_CONTEXT_KEEP_GIT_DIR = 1
  }
}
group "default" {
  targets = ["binaries"]
}
group "validate" {
  targets = ["validate-all", "_common"]
}
target "validate-all" {
  name     = "validate-${check}-${slug([check, mode])}"
  inherits = ["_common"]
  matrix = {
    check = MATRIX
    mode  = ["strict"]
  }
  dockerfile = "./hack/dockerfiles/${check}.Dockerfile"
  target     = "validate"
  args       = mode == "strict" ? { STRICT = "1" } : {}
  output     = ["type=cacheonly"]
}
target "docs" {
  inherits = ["_common"]
  args     = { FORMATS = DOCS_FORMATS }
  output   = ["./docs/reference"]
}
target "binaries" {
  inherits  = ["_common"]
  target    = "binaries"
  output    = [bindir("build")]
  platforms = ["local"]
}
target "binaries-cross" {
  inherits = ["binaries"]
  output   = [bindir("cross")]
  platforms = [
    "darwin/amd64",
    "linux/arm/v7",
    "linux/riscv64",
    "windows/arm64",
  ]
}
target "image" {
  inherits = ["meta-helper", "binaries"]
  output   = ["type=image"]
}
target "image-cross" {
  inherits   = ["image", "binaries-cross"]
  cache-from = ["type=gha,scope=image"]
}

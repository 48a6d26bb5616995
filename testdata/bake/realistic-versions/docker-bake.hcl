# The shape of a project that publishes many variants of one image.
variable "REGISTRY" {
  default = "docker.io"
}
variable "VERSION" {
  default = "2.541.3"
}
variable "LATEST" {
  default = "true"
}
variable "distributions" {
  default = {
    alpine = { release = "3.22", platforms = ["linux/amd64", "linux/arm64"], default = false }
    debian = { release = "trixie", platforms = ["linux/amd64", "linux/arm64", "linux/s390x"], default = true }
  }
}
variable "jdks" {
  default = [17, 21]
}
default_jdk = 21
variants = flatten([for name, dist in distributions : [for jdk in jdks : { name = name, dist = dist, jdk = jdk }]])
function "is_default" {
  params = [variant]
  result = variant.dist.default && variant.jdk == default_jdk
}
function "tag" {
  params = [condition, suffix]
  result = condition ? "${REGISTRY}/example/app:${suffix}" : ""
}
function "tags" {
  params = [variant]
  result = [
    tag(true, "${VERSION}-${variant.name}-jdk${variant.jdk}"),
    tag(is_default(variant), VERSION),
    tag(is_default(variant) && equal(LATEST, "true"), "latest"),
    tag(equal(variant.jdk, default_jdk), "${variant.name}${variant.dist.release}"),
  ]
}
group "default" {
  targets = ["app"]
}
target "app" {
  matrix = {
    variant = variants
  }
  name       = "${variant.name}_jdk${variant.jdk}"
  dockerfile = "${variant.name}/Dockerfile"
  context    = "."
  args = {
    RELEASE = variant.dist.release
    JDK     = variant.jdk
    MAJOR   = split(".", VERSION)[0]
    COMMIT  = try(COMMIT_SHA, "unknown")
  }
  tags      = tags(variant)
  platforms = [for p in variant.dist.platforms : p if !(p == "linux/s390x" && variant.jdk == 17)]
  labels = merge(
    { "org.opencontainers.image.version" = VERSION },
    variant.dist.default ? { "default" = "yes" } : {},
  )
}

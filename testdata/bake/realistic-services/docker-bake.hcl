# The shape of a project of services on shared bases.
variable "CI" {
  default = false
}
variable "CACHE" {
  default = "ghcr.io/example/cache"
}
variable "services" {
  type = map(object({ path = string, port = optional(number) }))
  default = {
    web    = { path = "apps/web", port = 3000 }
    worker = { path = "apps/worker" }
  }
}
function "cache_to" {
  params = [name]
  result = CI ? ["type=registry,ref=${CACHE}:${name},mode=max"] : []
}
target "deps" {
  dockerfile-inline = <<-EOT
    FROM node:22 AS deps
    WORKDIR /src
    %{ for name, service in services ~}
    COPY ${service.path}/package.json ${service.path}/
    %{ endfor ~}
    RUN npm ci
  EOT
  cache-to = cache_to("deps")
}
target "service" {
  name     = name
  matrix   = { name = keys(services) }
  context  = services[name].path
  contexts = { deps = "target:deps" }
  args     = { PORT = services[name].port == null ? "none" : services[name].port }
  tags     = ["example/${name}:${CI ? "ci" : "dev"}"]
  cache-from = ["type=registry,ref=${CACHE}:${name}"]
  cache-to   = cache_to(name)
  output     = CI ? ["type=registry"] : ["type=docker"]
}

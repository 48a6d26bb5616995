# Every attribute that a target can have.
target "default" {
  description = "Everything at once"
  annotations = ["index,manifest:org.example.title=All", "plain=${1 + 1}"]
  attest = [
    "type=provenance,mode=max",
    { type = "sbom", generator = "example/scanner" },
  ]
  context = "./app/../app/"
  contexts = {
    base   = "docker-image://alpine:3.22"
    assets = "../assets"
    empty  = ""
  }
  dockerfile = "build/Dockerfile"
  dockerfile-inline = <<EOT
FROM alpine
RUN echo $${HOME} && echo "<done>"
EOT
  args = {
    VERSION = 3
    DEBUG   = true
    NOTHING = null
    PERCENT = "100%%{x}"
  }
  labels = {
    "org.opencontainers.image.title" = "all & everything"
  }
  tags       = ["example/all:latest", "example/all:1", "example/all:latest", ""]
  cache-from = ["type=registry,ref=example/cache", "example/a,example/b", { type = "local", src = "cache" }]
  cache-to   = ["type=inline", { type = "gha", mode = "max" }]
  target     = "release"
  secret     = ["id=token,env=TOKEN", { id = "cert", src = "cert.pem" }, "type=env,id=other,src=OTHER"]
  platforms  = ["linux/amd64", "linux/arm64", "linux/amd64"]
  output     = ["type=image,push=true,name=example/all", "out", { type = "oci", dest = "image.tar" }]
  pull       = true
  no-cache   = "false"
  network    = "host"
  no-cache-filter = ["build", "test"]
  shm-size   = "128m"
  ulimits    = ["nofile=1024:2048", "nproc=512"]
  resources  = { memory = "512m", memory-swap = "1g", cpu-shares = 512, cpu-period = "100000", cpu-quota = 50000, cpuset-cpus = "0-1", cpuset-mems = "0" }
  call       = "check"
  entitlements = ["security.insecure"]
  extra-hosts  = { "db.local" = "10.0.0.1" }
  policy = ["filename=policy.rego,strict=true", { disabled = true }, { log-level = "warn", reset = true }]
}

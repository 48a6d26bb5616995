target "_common" {
  args   = { GO = "1.25", NAME = "common" }
  labels = { team = "infra" }
  cache-from  = ["example/common"]
  annotations = ["a=1"]
  platforms   = ["linux/amd64", "linux/arm64"]
  tags        = ["example/common"]
  secret      = ["id=x,env=COMMON"]
  ulimits     = ["nofile=1"]
  entitlements = ["network.host"]
  no-cache-filter = ["one"]
  attest = ["type=sbom"]
}
target "_debug" {
  args = { DEBUG = "1" }
  platforms = []
}
target "app" {
  inherits = ["_common", "_debug"]
  args   = { NAME = "app", GO = null }
  labels = { app = "app" }
  cache-from  = ["example/app", "example/common"]
  annotations = ["b=2", "a=1"]
  secret      = ["id=x,env=APP", "id=y,env=Y"]
  ulimits     = ["nproc=2"]
  no-cache-filter = ["two"]
  attest = ["type=sbom,disabled=true", "type=provenance,mode=min"]
}
target "app-child" {
  inherits = ["app"]
  tags = []
  context = "child"
  dockerfile = ""
}

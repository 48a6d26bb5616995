target "default" {
  cache-from = ["a", "b", "a", "c", "b", "d"]
  cache-to = ["type=inline", "type=inline"]
  output = ["type=image", "type=docker", "type=image"]
  secret = ["id=a,env=ONE", "id=b,env=B", "id=a,env=TWO"]
  ssh = []
  attest = ["type=sbom", "type=provenance", "type=sbom,disabled=true"]
}

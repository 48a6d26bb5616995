target "parent" {
  tags = ["x"]
  cache-to = ["type=inline"]
  output = ["type=docker"]
  platforms = ["linux/amd64"]
  args = { A = "1" }
}
target "default" {
  inherits = ["parent"]
  tags = null
  cache-to = []
  output = [""]
  platforms = []
  args = {}
}

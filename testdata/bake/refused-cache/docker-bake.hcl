target "default" {
  cache-to = ["ref=x,mode=max"]
}

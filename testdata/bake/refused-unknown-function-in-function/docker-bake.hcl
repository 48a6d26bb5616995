function "f" {
  params = [x]
  result = nothing_like_it(x)
}
target "default" {}

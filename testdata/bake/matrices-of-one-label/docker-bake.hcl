target "x" {
  name       = "x-${item}"
  matrix     = { item = ["a", "b"] }
  dockerfile = item
}
target "x" {
  name   = "y-${item}"
  matrix = { item = ["c"] }
}
target "none" {
  name   = "none-${item}"
  matrix = { item = [] }
}

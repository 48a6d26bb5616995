variable "TAG" {
  default = "v1"
}
target "app" {
  args = { B = "bake" }
  tags = ["app:${TAG}"]
}
target "extra" {
  inherits = ["db"]
}
group "all" {
  targets = ["default", "extra"]
}

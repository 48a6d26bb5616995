target "app" {
  name = "app-${replace(version, ".", "-")}"
  matrix = {
    version = ["1.0", "2.0"]
  }
  args = { VERSION = version }
  tags = ["app:${version}"]
}
target "uses" {
  contexts = { one = "target:app-1-0" }
  args = { TAG = target.app-2-0.tags[0] }
}
group "default" {
  targets = ["app", "uses"]
}

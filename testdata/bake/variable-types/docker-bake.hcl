variable "LIST" {
  type    = list(string)
  default = ["b", "a", "b"]
}
variable "SET" {
  type    = set(string)
  default = ["b", "a", "b"]
}
variable "NUMBERS" {
  type    = list(number)
  default = ["1", 2]
}
variable "MAP" {
  type    = map(number)
  default = { one = 1, two = "2" }
}
variable "TUPLE" {
  type    = tuple([string, number, bool])
  default = ["x", 1, true]
}
variable "OBJECT" {
  type    = object({ name = string, port = optional(number), tags = list(string) })
  default = { name = "web", tags = ["a"] }
}
variable "ANY" {
  type    = any
  default = [1, "x"]
}
variable "UNSET" {
  type = list(string)
}
variable "PLAIN" {
  type = string
}
variable "FLAG" {
  type = bool
  default = "true"
}
target "default" {
  tags = LIST
  platforms = [for s in SET : "linux/${s}"]
  args = {
    SUM    = NUMBERS[0] + NUMBERS[1]
    MAP    = jsonencode(MAP)
    TUPLE  = jsonencode(TUPLE)
    OBJECT = jsonencode(OBJECT)
    PORT   = OBJECT.port == null ? "none" : "some"
    ANY    = jsonencode(ANY)
    UNSET  = UNSET == null
    PLAIN  = PLAIN
    FLAG   = FLAG
  }
}

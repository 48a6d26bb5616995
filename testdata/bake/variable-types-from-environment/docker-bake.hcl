variable "LIST" {
  type = list(string)
}
variable "SET" {
  type = set(number)
}
variable "MAP" {
  type = map(bool)
}
variable "TUPLE" {
  type = tuple([string, number])
}
variable "OBJECT" {
  type = object({ name = string, ports = list(number) })
}
variable "JSON" {
  type = list(string)
}
variable "BOTH" {
  type = list(string)
}
variable "NUMBER" {
  type = number
}
variable "BOOL" {
  type = bool
}
variable "TEXT" {
  type = string
  default = "x"
}
target "default" {
  args = {
    LIST   = jsonencode(LIST)
    SET    = jsonencode(SET)
    MAP    = jsonencode(MAP)
    TUPLE  = jsonencode(TUPLE)
    OBJECT = jsonencode(OBJECT)
    JSON   = jsonencode(JSON)
    BOTH   = jsonencode(BOTH)
    NUMBER = NUMBER * 2
    BOOL   = BOOL
    TEXT   = TEXT
  }
}

variable "N" {
  default = 7
}
people = { ann = { age = 30 }, bob = { age = 20 } }
rows = [{ n = "a", v = [1, 2] }, { n = "b", v = [3] }]
target "default" {
  args = {
    ARITHMETIC = (N + 3) * 2 - 10 / 4 % 2
    NEGATIVE   = -N
    COMPARE    = N > 5 && N <= 7 || false
    NOT        = !(N == 7)
    TEXTS      = "1" + "2"
    EQUAL      = "1" == 1
    UNEQUAL    = [1] != [1]
    NULL       = null == null ? "same" : "other"
    SPLAT      = join(",", rows[*].n)
    OLD_SPLAT  = join(",", rows.*.n)
    DEEP       = jsonencode(rows[*].v[0])
    SINGLE     = jsonencode("x"[*])
    INDEX      = people["ann"].age
    LEGACY     = rows.0.n
    FOR        = join(",", [for k, v in people : "${k}=${v.age}" if v.age > 20])
    OBJECT     = jsonencode({ for k, v in people : upper(k) => v.age })
    GROUPED    = jsonencode({ for r in rows : length(r.v) => r.n... })
    POSITION   = jsonencode([for i, v in ["x", "y"] : i])
    NESTED     = jsonencode([for x in [1, 2] : [for y in [3, 4] : x * y]])
    SUM        = 0.1 + 0.2
    BIG        = 12345678901234567890123 + 1
    EXPONENT   = 1.5e3
    QUOTIENT   = 7 / 2
    KEY        = { (upper("a")) = 1 }["A"]
    MIXED      = true ? 1 : "x"
    EMPTY      = jsonencode(false ? ["a"] : [])
    OBJECTS    = jsonencode(true ? { a = 1 } : { b = "x" })
  }
}

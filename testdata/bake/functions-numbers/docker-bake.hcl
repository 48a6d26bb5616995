target "default" {
  args = {
    numbers = jsonencode([absolute(-5), add(1, 2.5), ceil(1.2), divide(7, 2), floor(-1.2), int(2.9), log(8, 2), max(1, 5, 3), min(2, 1), modulo(7, 3), multiply(2, 3), negate(4), parseint("ff", 16), parseint("-101", 2), pow(2, 10), signum(-3), subtract(5, 2)])
    bools   = jsonencode([and(true, false), or(true, false), not(true), equal(1, 1), equal("1", 1), notequal(1, 2), greaterthan(2, 1), greaterthanorequalto(1, 1), lessthan(2, 1), lessthanorequalto(2, 1)])
    version = jsonencode([semvercmp("1.2.3", ">= 1.2"), semvercmp("v2.0.0", "< 2"), semvercmp("1.9.9", "~1.2 || ^1.5"), semvercmp("1.2.3", "1.2.x"), semvercmp("1.2.3-rc1", ">=1.2"), semvercmp("1.2.3-rc1", ">=1.2.3-alpha"), semvercmp("1.4", "1.2 - 1.4"), semvercmp("0.3.1", "^0.3"), semvercmp("0.4.0", "^0.3"), semvercmp("1.2.3", "!=1.2"), semvercmp("1.3.0", ">1.2"), semvercmp("1.2.9", ">1.2"), semvercmp("1.2.9", "<=1.2"), semvercmp("1.2.3", ">1.0, <1.2.4"), semvercmp("3", "~2"), semvercmp("1.5.0", "~1"), semvercmp("1.2.3", "*")])
  }
}

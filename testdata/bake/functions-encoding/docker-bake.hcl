target "default" {
  args = {
    base64  = jsonencode([base64encode("hello é"), base64decode("aGk=")])
    json    = jsonencode({ a = [1, 1.5, true, null, "<&>\u2028\n"], b = {} })
    decoded = jsondecode("{\"a\": [1, {\"b\": \"c\"}]}").a[1].b
    sha256  = sha256("hello")
    md5     = md5("hello")
    sha1    = sha1("hello")
    sha512  = sha512("hello")
    uuidv5  = jsonencode([uuidv5("dns", "example.org"), uuidv5("url", "x"), uuidv5("6ba7b812-9dad-11d1-80b4-00c04fd430c8", "y")])
    url     = urlencode("a b/c?d=é&~_-.*")
    try     = jsonencode([try(nothing.here, "fallback"), try({ a = 1 }.b, { a = 1 }.a), can(nothing_else), can(1)])
    convert = jsonencode([convert(["b", "a", "b"], set(string)), convert("5", number)])
  }
}

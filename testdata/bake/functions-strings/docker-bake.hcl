target "default" {
  args = {
    basename   = jsonencode([basename("/a/b.c"), basename("a/"), basename(""), basename("/")])
    chomp      = jsonencode(chomp("x\r\n\n"))
    dirname    = jsonencode([dirname("/a/b/c"), dirname("a"), dirname("/a"), dirname("a/b/")])
    format     = jsonencode([format("%s-%d", "a", 5), format("%05d|%5s|%-5s|%q", 42, "x", "y", "z\""), format("%v %v %v", 1.5, true, ["a"]), format("%x %X %o %b", 255, 255, 8, 5), format("%.2f %e %g", 3.14159, 12345.678, 0.5), format("%[2]s %[1]s", "a", "b"), format("%t %%", true), format("%+d % d", 5, 5), format("%#v", "x")])
    formatlist = jsonencode(formatlist("%s:%s", "app", ["1", "2"]))
    indent     = jsonencode(indent(2, "a\nb"))
    join       = jsonencode([join("-", ["a", 1, true]), join(",", ["a"], ["b", "c"]), join("x", [])])
    lower      = jsonencode(lower("ÀBC"))
    upper      = jsonencode(upper("àbc"))
    title      = jsonencode(title("hello big-world it's_ok"))
    regex      = jsonencode([regex("[0-9]+", "abc123def"), regex("([a-z]+)([0-9]+)", "abc123"), regex("(?P<name>[a-z]+)", "abc1")])
    regexall   = jsonencode([regexall("[a-z]+", "a1bc2"), regexall("([a-z])([0-9])", "a1b2"), regexall("z", "a")])
    regex_replace = jsonencode([regex_replace("v1.2.3", "[.]", "-"), regex_replace("ab", "(a)(b)", "$${2}$1")])
    replace    = jsonencode(replace("a.b.c", ".", "-"))
    reverse    = jsonencode(reverse("abc"))
    sanitize   = jsonencode(sanitize("a.b/c_d-é"))
    split      = jsonencode([split(",", "a,b"), split("", "abc"), split("x", "")])
    strlen     = jsonencode(strlen("héé"))
    substr     = jsonencode([substr("hello", 1, 3), substr("hello", -3, -1), substr("hello", 2, 99), substr("hello", 0, 0)])
    trim       = jsonencode([trim("?!x!?", "!?"), trimprefix("v1", "v"), trimsuffix("a.tar", ".tar"), trimspace("  x ")])
  }
}

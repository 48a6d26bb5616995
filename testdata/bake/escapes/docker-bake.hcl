target "default" {
  args = { A = "$${x} %%{y} $x", B = "a\tb\u0001\"\\/<script>&" }
  labels = { "k<>" = "$${l}" }
  tags = ["x:<y>"]
  annotations = ["a=$${b}"]
  extra-hosts = { h = "$${i}" }
  dockerfile-inline = "FROM a\nRUN echo $${B} %%{c}\r\n"
  description = "d $${e}"
}

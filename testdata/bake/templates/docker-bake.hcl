variable "NAMES" {
  default = ["a", "b"]
}
variable "ON" {
  default = true
}
target "default" {
  args = {
    PLAIN    = "tab\there \"quoted\" \\ \u00e9 \U0001F600 $${not} %%{not}"
    IF       = "%{ if ON }on%{ else }off%{ endif }!"
    FOR      = "%{ for n in NAMES }<${n}>%{ endfor }"
    STRIP    = "x   ${~ "y" ~}   z"
    STRIPIF  = "a %{~ if ON ~} b %{~ endif ~} c"
    DOLLAR   = "$ $x $${ ${"$"}{ 100%"
    WRAPPED  = "${NAMES[0]}"
    NUMBER   = "${1 + 1}"
    BOOL     = "is ${ON}"
    NESTED   = "${"a${"b"}"}"
  }
  dockerfile-inline = <<-EOT
    FROM alpine
    %{~ for n in NAMES }
    RUN echo ${n}
    %{~ endfor }
      RUN indented
  EOT
}
target "heredoc" {
  dockerfile-inline = <<EOT
  FROM scratch
    COPY . /
  EOT
  args = {
    A = <<-EOT
      one
        two
      three
    EOT
  }
}

names = ["a", "b"]
target "default" {
  args = {
    A = <<-EOT
      one

        ${names[0]} two
      ${names[1]}
    EOT
    B = <<-EOT
    x
      %{ for n in names ~}
      - ${n}
      %{ endfor ~}
    y
    EOT
    C = <<EOT
${~ "x" ~}
  kept $${x}
EOT
    E = "%{ if true }\n  a\n%{~ endif }"
    F = <<-EOT
      RUN echo "a" && \
        echo 'b' # c
      %%{x} $x \n
      EOT
  }
}

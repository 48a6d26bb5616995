from alpine as build
run true
RUN <<EOF
true
EOF
from alpine
Copy --from=build a \
  b /c/
expose 80

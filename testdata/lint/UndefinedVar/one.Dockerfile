FROM alpine
COPY $foo /

FROM alpine AS one
WORKDIR a \
  b
WORKDIR c
WORKDIR /d
WORKDIR e
FROM alpine
WORKDIR ./x

ARG VERSION=3
FROM --platform=${BUILDPLATFROM:-linux/amd64} \
  alpine:${VERSON:-3} AS base
FROM base
RUN true

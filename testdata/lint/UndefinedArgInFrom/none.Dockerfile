ARG VERSION=3
FROM --platform=$BUILDPLATFORM alpine:${VERSION} AS base
RUN true

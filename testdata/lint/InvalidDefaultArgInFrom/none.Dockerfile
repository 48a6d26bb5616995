ARG TAG=latest
ARG VARIANT
FROM busybox:${TAG} AS one
FROM alpine${VARIANT}
RUN true

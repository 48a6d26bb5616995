# check=experimental=InvalidDefinitionDescription

# global version
ARG version=1 other=2
# this is
# not what it is
FROM alpine:$version \
  AS base
# x
ARG y=1
# whatever
FROM base
RUN true

# check=experimental=all

# foo this is the foo argument
ARG foo=bar
# no definition

# base is what the others start from
FROM alpine AS base
# separate
#
ARG other
RUN true

FROM alpine AS base
FROM base \
  AS context
RUN true

FROM alpine AS one
FROM \
  other:1 AS two
RUN true

FROM alpine AS one
FROM --platform=linux/amd64 \
  alpine
RUN true

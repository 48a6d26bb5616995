ARG IMAGE
FROM alpine AS one
FROM \
   ${IMAGE}
RUN true

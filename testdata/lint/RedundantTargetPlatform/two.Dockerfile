FROM alpine AS one
FROM \
  --platform=${TARGETPLATFORM} \
  alpine
RUN true

ARG TAG=3
FROM alpine:3${TAGG}
RUN true

FROM alpine AS one
RUN true
FROM alpine AS one
RUN true

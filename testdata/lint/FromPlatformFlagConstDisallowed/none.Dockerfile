FROM --platform=linux/amd64 alpine AS build_amd64
FROM --platform=linux/amd64 alpine AS any-linux
FROM build_amd64
RUN true

# syntax=docker/dockerfile:1
FROM alpine AS base

FROM \
  base \
  AS FINAL
RUN true

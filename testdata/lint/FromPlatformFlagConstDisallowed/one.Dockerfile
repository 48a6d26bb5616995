FROM --platform=linux/amd64 alpine AS base
RUN true

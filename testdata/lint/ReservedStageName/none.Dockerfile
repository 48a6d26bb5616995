FROM alpine AS scratch-2
RUN true

FROM alpine
ENV DIR /bin

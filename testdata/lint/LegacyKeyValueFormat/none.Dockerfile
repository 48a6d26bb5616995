FROM alpine
ENV DIR="/usr/bin" B=2
LABEL a=b

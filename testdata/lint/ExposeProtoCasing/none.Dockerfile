FROM alpine
EXPOSE 80/tcp 81/udp 82

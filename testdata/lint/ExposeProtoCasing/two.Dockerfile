FROM alpine
EXPOSE 80 \
  81/tcp 82/UDP \
  83-84/TCP

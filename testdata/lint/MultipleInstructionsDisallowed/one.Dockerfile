FROM alpine
ENTRYPOINT ["one"]
ENTRYPOINT ["two"]

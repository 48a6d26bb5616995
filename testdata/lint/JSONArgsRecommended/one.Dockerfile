FROM alpine
CMD echo one

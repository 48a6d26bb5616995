FROM alpine AS one
ENTRYPOINT ["top"]
CMD ["-b"]
FROM alpine
SHELL ["/bin/ash", "-c"]
CMD echo one

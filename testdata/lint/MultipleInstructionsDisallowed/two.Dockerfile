FROM alpine
CMD ["one", \
  "two"]
HEALTHCHECK CMD true
RUN true
HEALTHCHECK --interval=3s \
  CMD false
CMD ["three"]
HEALTHCHECK NONE
CMD ["four"]

FROM alpine
ENV A=1
LABEL description a long \
  text
ENV two words here

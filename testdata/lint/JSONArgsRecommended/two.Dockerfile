FROM alpine
ENTRYPOINT exec top \
  -b
CMD [ "-n" , top ]

FROM alpine AS one
CMD ["one"]
FROM one
ENTRYPOINT ["two"]
CMD ["two"]

FROM alpine AS one
MAINTAINER one \
  and more
FROM one
MAINTAINER two
RUN true

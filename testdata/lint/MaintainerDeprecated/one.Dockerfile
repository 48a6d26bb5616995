FROM alpine
MAINTAINER me <me@example.org>

FROM alpine
WORKDIR /usr
WORKDIR src/app

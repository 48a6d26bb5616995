FROM scratch
COPY ./tmp/Dockerfile /

FROM alpine AS one
ENV USER=x \
    DB_PASSWORD=hunter2 \
    API_TOKEN=
ARG github_token=x
FROM one
ENV PUBLIC_KEY=1 TOKEN_FILE=2

FROM alpine
ARG KEY_VERSION TOKENS
ENV PASSWORD_FILE=/run/secrets/p
RUN --mount=type=secret,id=password true

FROM alpine:3.20 AS base
ARG V=1
ARG http_proxy
ENV A=b
WORKDIR /srv
RUN --mount=type=cache,target=/root/.cache,id=c,sharing=locked,uid=1,mode=0700 \
    --mount=type=cache,target=/p,sharing=private --mount=type=tmpfs,target=/t,size=1000 --network=none \
    echo hi
RUN --mount=type=secret,id=s,mode=0440,uid=3,required --mount=type=secret,id=e,env=TOKEN \
    --mount=type=bind,from=alpine:3.20,source=/etc,target=/mnt,rw --mount=type=ssh true
USER app:app
RUN --network=host <<SCRIPT
echo one
echo two
SCRIPT
FROM --platform=linux/arm/v7 alpine:3.20
RUN --mount=type=cache,from=base,source=/usr,target=/u --security=insecure ["x", "y"]

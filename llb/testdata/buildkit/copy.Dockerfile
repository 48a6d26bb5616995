FROM alpine:3.20 AS base
COPY --chown=app:app --chmod=u=rwX src/ /app/
COPY --chown=1 --chmod=0640 a b* /x/
COPY --link --chown=app a b /x/
COPY --link --chown=2:3 --exclude=*.md --exclude=!README.md d e
ADD https://example.com/x.tgz /dl/
ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://example.com/ /dl/
ADD a.tar.gz /un/
ADD --unpack=false a.tar.gz /un/
ADD --keep-git-dir=true https://github.com/a/b.git#v1:sub /git
ADD --checksum=0123456789abcdef0123456789abcdef01234567 https://github.com/a/b.git#v1 /git
COPY <<E1 <<E2 /here/
one
E1
two
E2
FROM lay
COPY --from=base --parents --exclude=*.md /app/./x/y /y/
COPY --from=base --parents /app/*.py a/b /y/
ADD --chown=root:staff b /

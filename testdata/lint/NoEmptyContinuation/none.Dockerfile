FROM alpine
RUN true && \
    # a comment
    true

RUN true

FROM alpine
RUN true && \

    true

FROM alpine
ARG foo
ENV PATH=$PATH:/bin X=${foo:-1}
COPY $foo /
RUN echo $undefined

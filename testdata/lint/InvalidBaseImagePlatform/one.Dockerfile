FROM other
RUN true

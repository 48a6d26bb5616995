FROM alpine
RUN true
COPY \
   # why

  a \

  b \
  /dest/
RUN one \
  two

RUN three \
 	 
  four

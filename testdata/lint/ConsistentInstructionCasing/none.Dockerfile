from alpine
run true
workdir /x

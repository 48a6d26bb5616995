# check=experimental=all
# bar this is the foo argument
ARG foo=bar
FROM scratch AS base

FROM alpine AS build
FROM build AS final-1
RUN true

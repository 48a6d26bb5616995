FROM scratch
ADD a \
  "tmp/x" \
  notes.md /dest/
COPY --from=alpine tmp/x /

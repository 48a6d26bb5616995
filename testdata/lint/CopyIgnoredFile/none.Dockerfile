FROM scratch
COPY a b ./src /dest/
ADD https://example.org/notes.md /
COPY <<notes.md /
text
notes.md

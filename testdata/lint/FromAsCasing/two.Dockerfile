from alpine AS one
run true
from one \
  As two
run true

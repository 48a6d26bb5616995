#!/bin/sh
set -e
test "$(echo '{"b": 1, "a": {"c": 2}}' | ./keys)" = "b
a"
if echo '[]' | ./keys 2>/dev/null; then exit 1; fi

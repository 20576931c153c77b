#!/bin/sh
# Runs a command (`go test -exec` gives it each test binary) in a network namespace that has a loopback and no
# way out of it, so that nothing that a test starts or asks for can reach the network, or be reached. Making one
# needs root: without it only specs that start nothing can run anyway, and the command runs as it is.
[ "$(id -u)" = 0 ] || exec "$@"
exec unshare --net sh -c 'ip link set lo up && exec "$@"' isolated "$@"

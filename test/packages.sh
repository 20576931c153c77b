#!/usr/bin/env bash
# Installs the Debian packages that Drayage runs on, where they are missing; with the argument "test" also those
# that specs look with, with "cluster" those that an ordinary Kubernetes, in specs and benchmarks, runs on, with "runtime" those
# that the image's container runtime is built with, with "race" what the race detector is. Needs root only then.
set -euo pipefail
declare -A package=([containerd]=containerd [runc]=runc [ip]=iproute2 [nsenter]=util-linux [pgrep]=procps)
[ "${1:-}" = test ] && package[nft]=nftables
[ "${1:-}" = race ] && package+=([nft]=nftables [gcc]=gcc)
[ "${1:-}" = cluster ] && package+=([nft]=nftables [conntrack]=conntrack [sysctl]=procps [/usr/lib/cni/ptp]=containernetworking-plugins)
missing=()
[ "${1:-}" = race ] && [ ! -e /usr/include/stdlib.h ] && missing+=(libc6-dev)
if [ "${1:-}" = runtime ]; then
  package=([gcc]=gcc)
  [ -e /usr/include/seccomp.h ] || missing+=(libseccomp-dev)
  [ -e /usr/include/stdlib.h ] || missing+=(libc6-dev)
fi
for command in "${!package[@]}"; do
  command -v "$command" >/dev/null || missing+=("${package[$command]}")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if [ "$(id -u)" != 0 ]; then
  echo "drayage needs the packages ${missing[*]}: install them (apt-get install ${missing[*]}) or run this as root" >&2
  exit 1
fi
echo "installing ${missing[*]}" >&2
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null

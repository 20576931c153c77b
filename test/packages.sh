#!/usr/bin/env bash
# Installs the Debian packages that Drayage runs on, where they are missing; with the argument "test" also those
# that specs look with, with "bench" those that peers in benchmarks need. Needs root only then.
set -euo pipefail
declare -A package=([containerd]=containerd [runc]=runc [ip]=iproute2 [nsenter]=util-linux [pgrep]=procps)
case "${1:-}" in
  test) package[nft]=nftables ;;
  bench) package[nft]=nftables package[conntrack]=conntrack package[/usr/lib/cni/ptp]=containernetworking-plugins ;;
esac
missing=()
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

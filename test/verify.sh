#!/usr/bin/env bash
# Proves that what is generated is current and that the sources keep the house's rules.
set -euo pipefail
cd "$(dirname "$0")/.."
fail=0
say() { echo "verify: $*" >&2; fail=1; }

unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || say "gofmt would change: $unformatted (run make fmt)"

before=$(mktemp -d)
trap 'rm -rf "$before"' EXIT
cp -r apis config/crd docs charts "$before"/
make -s manifests generate
diff -r "$before/apis" apis >/dev/null && diff -r "$before/crd" config/crd >/dev/null &&
  diff -r "$before/docs" docs >/dev/null && diff -r "$before/charts" charts >/dev/null ||
  say "generated files were out of date: run make generate manifests and commit"

for module in . apis tools images/containerd images/runc test/gitops/peers; do
  (cd "$module" && go mod tidy -diff >/dev/null) || say "module $module is not tidy: run go mod tidy there"
done

go vet ./... || say "go vet found something"
(cd apis && go vet ./...) || say "go vet found something in apis"
exit $fail

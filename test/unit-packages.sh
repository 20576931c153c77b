#!/usr/bin/env bash
# Lists the packages whose specs need neither root nor an API server: those that import none of the
# packages which start one or make namespaces, and are not about the machine itself.
set -euo pipefail
go list -f '{{.ImportPath}} {{join .TestImports " "}} {{join .XTestImports " "}}' ./... |
  grep -v -e drayage.dev/test/env -e drayage.dev/test/cluster -e drayage.dev/network/netlab -e drayage.dev/controlplane \
    -e '^drayage.dev/test/' -e '^drayage.dev/agent/cgroups ' -e '^drayage.dev/agent/containerd ' \
    -e '^drayage.dev/agent/runtime/' -e '^drayage.dev/internal/detached ' |
  cut -d' ' -f1

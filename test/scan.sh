#!/usr/bin/env bash
# What `make scan` does: known vulnerabilities in what the binaries call, and whether Helm and the API server's
# schemas are content with the chart and the samples.
#
# GOVULNDB names the database of vulnerabilities; https://vuln.go.dev when it is empty, which needs the network. A
# directory of OSV files, such as data/osv of a clone of golang/vulndb, does without: GOVULNDB=file:///path/data/osv.
set -euo pipefail
cd "$(dirname "$0")/.."

for helm in bin/helm bin/helm4; do
  "$helm" lint --strict charts/drayage
done
everything=(--set podMonitor.enabled=true --set serviceMonitor.enabled=true --set certificates.certManager.enabled=true --set agent.privileged=true
  --set secureMetrics.enabled=true --set logging.format=json --set crds.keep=false
  --set 'networkPolicy.metricsFrom[0].podSelector.matchLabels.app=prometheus'
  --set scheduler.configuration.apiVersion=kubescheduler.config.k8s.io/v1 --set scheduler.configuration.kind=KubeSchedulerConfiguration)
go build -o bin/scan ./test/scan
bin/helm template drayage charts/drayage --namespace drayage-system | bin/scan manifests
bin/helm template drayage charts/drayage --namespace drayage-system "${everything[@]}" | bin/scan manifests
bin/helm4 template drayage charts/drayage --namespace drayage-system "${everything[@]}" | bin/scan manifests
for sample in config/samples/*.yaml; do
  [ "$(basename "$sample")" = kustomization.yaml ] || bin/scan manifests <"$sample"
done

# It reads the whole of Kubernetes: some 6 GB and minutes.
bin/govulncheck -format json ${GOVULNDB:+-db "$GOVULNDB"} ./cmd/... | bin/scan vulnerabilities tools/scan/known.txt

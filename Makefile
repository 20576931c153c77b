# Drayage's build. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Static binaries. Changing build flags rebuilds Kubernetes' packages, which takes minutes: keep them.
export CGO_ENABLED := 0

GO       ?= go
BIN      := $(CURDIR)/bin
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0)
K8S      := $(shell sed -n 's/^\tk8s.io\/kubernetes \(v[0-9.]*\).*/\1/p' go.mod)
K8S_PART := $(subst ., ,$(K8S:v%=%))
# Clients read the API server's version from these: without them kubectl's version checks break.
LDFLAGS  := -s -w \
  -X drayage.dev/internal/version.Version=$(VERSION) \
  -X k8s.io/component-base/version.gitVersion=$(K8S) \
  -X k8s.io/component-base/version.gitMajor=$(word 1,$(K8S_PART)) \
  -X k8s.io/component-base/version.gitMinor=$(word 2,$(K8S_PART))
GOFLAGS_TEST ?=
# Each test binary runs without a way to the network.
GOTEST   := $(GO) test -exec $(CURDIR)/test/isolated.sh $(GOFLAGS_TEST)
# How long specs wait for what must come: a loaded machine takes longer than Gomega's one second.
export GOMEGA_DEFAULT_EVENTUALLY_TIMEOUT ?= 30s
BINARIES := dray dray-manager dray-scheduler dray-agent dray-dns dray-cni

##@ Use

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*##"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*##/ {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: ## Run Drayage on this machine (as root) with the sample application, until Ctrl-C.
	@./test/packages.sh
	@echo "==> building (the first time takes some minutes)"
	@$(MAKE) --no-print-directory build
	@$(GO) build -o $(BIN)/demo ./test/demo
	@exec $(BIN)/demo -dray $(BIN)/dray -data-dir $(CURDIR)/.run -samples config/samples

.PHONY: clean-node
clean-node: ## Remove what a killed `make run` left on this machine.
	$(BIN)/dray clean-node --data-dir $(CURDIR)/.run

##@ Build

.PHONY: build
build: ## Build the binaries into bin/.
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(BINARIES))

# runc changes namespaces before Go starts, in C; seccomp profiles come through libseccomp.
.PHONY: runtime
runtime: ## Build the image's container runtime, containerd and runc, into bin/runtime/. Needs gcc and libseccomp-dev.
	@./test/packages.sh runtime
	cd images/containerd && $(GO) build -tags 'no_btrfs no_devmapper no_zfs' -o $(BIN)/runtime/ \
	  -ldflags "-s -w -X github.com/containerd/containerd/v2/version.Version=$$($(GO) list -m -f '{{.Version}}' github.com/containerd/containerd/v2)" \
	  github.com/containerd/containerd/v2/cmd/containerd github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2
	cd images/runc && CGO_ENABLED=1 $(GO) build -tags 'seccomp netgo osusergo urfave_cli_no_docs' -o $(BIN)/runtime/runc \
	  -ldflags '-s -w -extldflags -static' github.com/opencontainers/runc

.PHONY: image
image: build runtime ## Assemble the OCI image bin/drayage-image.tar without a Docker engine.
	$(GO) run ./test/images/drayage --bin $(BIN) --tag drayage:$(VERSION) --output $(BIN)/drayage-image.tar

##@ Develop

.PHONY: generate
generate: $(BIN)/controller-gen ## Generate deep copies and the generated parts of the docs.
	cd apis && $(BIN)/controller-gen object paths=./...
	$(GO) run ./test/docs

.PHONY: manifests
manifests: $(BIN)/controller-gen ## Generate the custom resource definitions and the chart's parts that follow from sources.
	rm -f config/crd/*.yaml
	cd apis && $(BIN)/controller-gen crd:maxDescLen=0,generateEmbeddedObjectMeta=true paths=./... output:crd:dir=../config/crd
	$(GO) run ./test/chart

.PHONY: fmt
fmt: ## Format the sources.
	gofmt -w $$(git ls-files '*.go')

.PHONY: verify
verify: ## Prove that generated files are current, sources formatted, modules tidy, imports legal.
	@./test/verify.sh

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters of .golangci.yml.
	$(BIN)/golangci-lint run ./...
	cd apis && $(BIN)/golangci-lint run --config ../.golangci.yml ./...

$(BIN)/controller-gen: tools/go.mod
	cd tools && $(GO) build -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen

$(BIN)/ginkgo: tools/go.mod
	cd tools && $(GO) build -o $@ github.com/onsi/ginkgo/v2/ginkgo

$(BIN)/golangci-lint: tools/lint/go.mod
	cd tools/lint && $(GO) build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

.PHONY: scan
scan: $(BIN)/govulncheck $(BIN)/helm $(BIN)/helm4 ## Look for known vulnerabilities (GOVULNDB=... names another database) and at the chart.
	@./test/scan.sh

$(BIN)/govulncheck: tools/scan/go.mod
	cd tools/scan && $(GO) build -o $@ golang.org/x/vuln/cmd/govulncheck

# Without these Helm takes the cluster for one of 1.20 when it renders without one.
HELM_LDFLAGS = -s -w -X helm.sh/helm/v$(1)/pkg/chart$(2).k8sVersionMajor=1 -X helm.sh/helm/v$(1)/pkg/chart$(2).k8sVersionMinor=$(word 2,$(K8S_PART))

$(BIN)/helm: tools/helm/go.mod
	cd tools/helm && $(GO) build -ldflags '$(call HELM_LDFLAGS,3,util)' -o $@ helm.sh/helm/v3/cmd/helm

$(BIN)/helm4: tools/helm/go.mod
	cd tools/helm && $(GO) build -ldflags '-s -w' -o $@ helm.sh/helm/v4/cmd/helm

# Kubernetes' own programs. Their dependencies are no business of the product's go.mod: a copy of it takes them.
KUBERNETES := kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet

$(BIN)/k8s.mod: go.mod
	mkdir -p $(BIN) && cp go.mod $@ && cp go.sum $(BIN)/k8s.sum
	$(GO) get -modfile=$@ $(KUBERNETES:%=k8s.io/kubernetes/cmd/%)

$(KUBERNETES:%=$(BIN)/%): $(BIN)/k8s.mod
	$(GO) build -modfile=$< -ldflags '$(LDFLAGS)' -o $@ k8s.io/kubernetes/cmd/$(@F)

$(BIN)/coredns: tools/coredns/go.mod tools/coredns/main.go
	cd tools/coredns && $(GO) build -ldflags '-s -w' -o $@ .

##@ Test (as root)

.PHONY: test
test: build runtime ## Run every test: specs, real API server, real containers, real kernel tables.
	@./test/packages.sh test
	$(GOTEST) -timeout 40m ./test/e2e ./... # the longest first: what waits most leaves the processor to the others

.PHONY: test-unit
test-unit: ## Run the specs that need neither root nor a cluster, in under two minutes.
	$(GOTEST) -timeout 2m $$(./test/unit-packages.sh)

.PHONY: test-race
test-race: ## Run every test but those of whole nodes under the race detector. Needs gcc; the first time it builds Kubernetes anew.
	@./test/packages.sh race
	CGO_ENABLED=1 $(GOTEST) -race -p 1 -timeout 30m $$($(GO) list ./... | grep -v /test/e2e)

FUZZ ?= 10m
.PHONY: fuzz-scheduler
fuzz-scheduler: ## Hold the scheduler's fast path against upstream's plugins in random clusters, for FUZZ=10m.
	DRAYAGE_FUZZ=$(FUZZ) $(GOTEST) -count=1 -timeout 0 -v ./scheduler/fastpath -args -ginkgo.v -ginkgo.focus 'among the best'

SCALE ?= default
WORKLOADS ?= ^(SchedulingBasic|Unschedulable|PreemptionBasic|Scheduling(PodAntiAffinity|PodAffinity|PreferredPodAffinity|NodeAffinity)|MixedSchedulingBasePod|TopologySpreading|PreferredTopologySpreading)/
.PHONY: bench-scheduler
bench-scheduler: $(BIN)/kube-apiserver $(BIN)/kube-scheduler ## Compare the scheduler with upstream's: CPU per decision, then upstream's WORKLOADS=regexp end to end in SCALE=small|default|large; JSON lines go to BENCH_JSON=file.
	$(GOTEST) -run '^$$' -bench Decisions -benchtime 1x -timeout 30m ./scheduler/fastpath
	$(GO) build -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/dray-scheduler ./test/schedulerperf
	$(BIN)/schedulerperf -scale $(SCALE) -workloads '$(WORKLOADS)'

.PHONY: bench-network
bench-network: build $(BIN)/kube-apiserver $(BIN)/kube-proxy $(BIN)/coredns ## Compare services, pod wiring and DNS with kube-proxy, the reference CNI plugins and CoreDNS; JSON lines go to BENCH_JSON=file.
	@./test/packages.sh cluster
	$(GO) build -o $(BIN)/bench-network ./test/bench/network
	$(BIN)/bench-network

.PHONY: test-gitops
test-gitops: ## Ask Argo CD's own code about kept objects. Not part of `make test`: Argo CD's dependencies take minutes to build.
	cd test/gitops/peers && $(GO) test $(GOFLAGS_TEST) -count=1 -timeout 5m ./... # the objects are outside the module: no cached answer would notice a change

.PHONY: bench-drain
bench-drain: build $(KUBERNETES:%=$(BIN)/%) ## Compare the requests that disruptions lose with kubelet's and kube-proxy's; JSON lines go to BENCH_JSON=file.
	@./test/packages.sh cluster
	$(GOTEST) -tags cluster,bench -count=1 -timeout 35m ./test/hosted -ginkgo.v -ginkgo.focus 'through disruptions'

.PHONY: test-e2e
test-e2e: build ## Run the end-to-end specs: whole clusters in network namespaces.
	@./test/packages.sh test
	$(GOTEST) -timeout 40m ./test/e2e/...

.PHONY: test-cluster
test-cluster: image $(BIN)/helm $(BIN)/helm4 $(BIN)/coredns $(KUBERNETES:%=$(BIN)/%) ## Prove the Helm chart on a whole Kubernetes. Not part of `make test`: building Kubernetes takes minutes.
	@./test/packages.sh cluster
	$(GOTEST) -tags cluster -timeout 20m ./test/hosted

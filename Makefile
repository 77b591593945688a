# The only entry point. `make help` lists the targets.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

LDFLAGS  := -s -w
GO_BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'
BIN      := bin
LAB      := $(BIN)/lab
HELM     := go tool -modfile=tools/helm/go.mod helm
IMAGE    := docker.io/barelb/barelb:dev
LAB_ARGS ?=
FAILOVER_ARGS ?= --trials 100 --speaker-flags "--drain-time=2s"
TEST_ARGS ?=
OLDEST ?= ^(TestBGP|TestLayer2Failover|TestLayer2NodeSelectors|TestSharing|TestBadInput|TestGuardedPoolEdits|TestConfigurationState|TestMetrics)$$

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/barelb
	$(GO_BUILD) -o $(BIN)/barelb ./cmd/barelb
	ln -sf barelb $(BIN)/kubectl-barelb # kubectl barelb
	ln -sf barelb $(BIN)/kubectl_complete-barelb # and its completion

.PHONY: image
image: build ## Write bin/barelb-image.tar (OCI archive), without a container engine
	cd lab && go run ./cmd/mkimage -o ../$(BIN)/barelb-image.tar -name $(IMAGE) -entrypoint /barelb ../$(BIN)/barelb:/barelb /controller=/barelb /speaker=/barelb

.PHONY: release
release: ## Write bin/release: the image for amd64 and arm64 with its bill of materials and provenance, and the charts
	mkdir -p $(BIN)/release
	for arch in amd64 arm64; do GOARCH=$$arch $(GO_BUILD) -o $(BIN)/release/barelb-$$arch ./cmd/barelb; done
	cd lab && go run ./cmd/mkimage -o ../$(BIN)/release/barelb-image.tar -name $(IMAGE) -entrypoint /barelb -arch amd64,arm64 -papers \
	  ../$(BIN)/release/barelb-{arch}:/barelb /controller=/barelb /speaker=/barelb
	$(HELM) package deploy/chart deploy/crds-chart --destination $(BIN)/release
	ls -l $(BIN)/release

.PHONY: lab-tool
lab-tool:
	cd lab && CGO_ENABLED=0 go build -trimpath -o ../$(LAB) ./cmd/lab
	cd lab && CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o ../$(BIN)/backend ./measure/cmd/backend
	cd lab && go run ./cmd/mkimage -o ../$(BIN)/backend-image.tar -name docker.io/barelb/lab-backend:dev -entrypoint /backend ../$(BIN)/backend:/backend

.PHONY: demo
demo: image lab-tool ## Measure Layer 2 and BGP on a real cluster on this machine, and print the comparison
	$(LAB) demo $(LAB_ARGS)

.PHONY: test
test: image lab-tool ## Run all tests (as root: the adapters and the lab make network namespaces)
	$(LAB) build --packages > $(BIN)/kube-bin
	BARELB_KUBE_BIN=$$(cat $(BIN)/kube-bin) go test -race $(TEST_ARGS) ./...
	go test -run TestRandomOperations ./internal/core/ipam # 100,000 sequences, too many for the race detector
	go test ./internal/core/liveness # fleets of 1,000 nodes and long times, likewise
	cd lab && BARELB_KUBE_BIN=$$(cat ../$(BIN)/kube-bin) go test -p 1 -timeout 40m $(TEST_ARGS) ./...
	$(MAKE) monitoring

.PHONY: oldest
oldest: image lab-tool ## Run tests of lab/e2e on the oldest Kubernetes that is supported (the first time builds it: minutes)
	$(LAB) build --packages > $(BIN)/kube-bin
	rm -rf $(BIN)/oldest && mkdir -p $(BIN)/oldest
	cd lab/deps/kubernetes-oldest && v=$$(go list -m -f '{{.Version}}' k8s.io/kubernetes) && CGO_ENABLED=0 go build -trimpath \
	  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$$v -X k8s.io/client-go/pkg/version.gitVersion=$$v" \
	  -o $(CURDIR)/$(BIN)/oldest/ k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-proxy,kubectl}
	for f in $$(cat $(BIN)/kube-bin)/*; do test -e $(BIN)/oldest/$${f##*/} || ln -s $$f $(BIN)/oldest/; done
	awk 'BEGIN {RS = "\n---\n"; ORS = "\n---\n"} !/kind: ValidatingAdmissionPolicy/' deploy/install.yaml > $(BIN)/oldest.yaml # it came with 1.30
	cd lab && BARELB_KUBE_BIN=$(CURDIR)/$(BIN)/oldest BARELB_MANIFEST=$(CURDIR)/$(BIN)/oldest.yaml BARELB_PROXY_MODE=iptables \
	  go test -count=1 -v -timeout 40m -run '$(OLDEST)' ./e2e

.PHONY: monitoring
monitoring: ## Test alerts and the board with Prometheus' own parser and promtool (the first time builds it: minutes)
	cd tools/monitoring && go test ./...
	cd tools/monitoring && go build -tags remove_all_sd -o ../../$(BIN)/promtool github.com/prometheus/prometheus/cmd/promtool
	$(BIN)/promtool check rules deploy/monitoring/alerts.yaml
	$(BIN)/promtool test rules deploy/monitoring/alerts_test.yaml

.PHONY: lab
lab: image lab-tool ## Leave the demo's cluster running, and say how to use it
	$(LAB) up --image $(BIN)/barelb-image.tar --image $(BIN)/backend-image.tar --manifest deploy/install.yaml \
	  --manifest lab/examples/pool.yaml --manifest lab/examples/web.yaml --manifest lab/examples/layer2.yaml $(LAB_ARGS)
	@echo "The Service web has 192.168.1.250, announced by Layer 2. To announce it by BGP instead:"
	@echo "  kubectl apply -f lab/examples/bgp.yaml && kubectl -n metallb-system delete l2advertisement layer2"

.PHONY: lab-down
lab-down: lab-tool ## Remove every trace of labs
	$(LAB) down --all

.PHONY: bench
bench: build lab-tool ## Print distributions: allocation, announcement, memory, failover (hours: see docs/failover.md)
	go test -run '^$$' -bench 'OneMore|Restart' ./internal/core/ipam
	$(LAB) bench $(LAB_ARGS)
	$(LAB) failover $(FAILOVER_ARGS)

.PHONY: generate
generate: ## Generate deepcopy code, CRDs, deploy/manifests, deploy/install.yaml and docs/reference (the first time builds Helm: minutes)
	go tool -modfile=tools/go.mod controller-gen object crd paths=./api/... output:crd:dir=deploy/crds
	sed -i 's/^spec:$$/spec:\n  conversion:\n    strategy: None\n    webhook: null/' deploy/crds/metallb.io_bgppeers.yaml
	sed -i 's/^  annotations:$$/&\n    helm.sh\/resource-policy: keep/' deploy/crds/*.yaml # an uninstallation deletes no pool
	rm -f deploy/crds-chart/templates/*.yaml && cp deploy/crds/*.yaml deploy/crds-chart/templates/
	mkdir -p deploy/chart/files && cp deploy/monitoring/alerts.yaml deploy/chart/files/
	rm -rf $(BIN)/rendered && $(HELM) template barelb deploy/chart --namespace metallb-system --output-dir $(BIN)/rendered > /dev/null
	$(HELM) template barelb deploy/chart --namespace metallb-system --set controller.webhookMode=enabled --show-only templates/webhook.yaml > $(BIN)/rendered/barelb/templates/webhook.yaml
	cd $(BIN)/rendered/barelb/templates && for f in *.yaml; do sed '/^# Source: /d; /^$$/d' $$f > $(CURDIR)/deploy/manifests/$$f; done
	(echo '# Assembled by make generate from deploy/chart and deploy/crds; do not edit.'; cd deploy; cat manifests/namespace.yaml crds/*.yaml manifests/{rbac,user-rbac,admission,controller,speaker}.yaml) > deploy/install.yaml
	go run ./internal/cli/refdoc
	(printf '%s\n' '# Made by make generate of alerts.yaml; do not edit.' 'apiVersion: monitoring.coreos.com/v1' 'kind: PrometheusRule' 'metadata:' '  name: barelb' '  namespace: metallb-system' '  labels: {app: metallb}' 'spec:'; sed '/^#/d; s/^/  /' deploy/monitoring/alerts.yaml) > deploy/monitoring/prometheusrule.yaml

.PHONY: lint
lint: ## Run the linters (the first time builds them: minutes)
	go tool -modfile=tools/lint/go.mod golangci-lint run
	cd lab && go tool -modfile=../tools/lint/go.mod golangci-lint run

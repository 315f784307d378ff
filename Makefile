# hostmanager: build, try, test. `make help` lists the targets.

GO        ?= go
BUILD     := build
TOOL      := $(GO) tool -modfile=tools/go.mod
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS   := -s -w -X hostmanager/internal/cli.version=$(VERSION)
FUZZ_TOTAL ?= 10m
COUNT     ?= 10
BLACKHOLE ?= 10m
KILLS     ?= 500
SEED      ?= 0
SOAK      ?= 2000

export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

.PHONY: build
build: ## build/hostmanager and build/hmctl, static and stripped
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BUILD)/ ./cmd/hostmanager ./cmd/hmctl

.PHONY: docker
docker: ## make sure a Docker Engine answers (installs docker.io with apt where none does)
	@scripts/docker-engine

.PHONY: demo
demo: docker build ## deploy testdata/apps/hello to two instances, flip it under load, break it in four ways, clean up
	$(GO) run ./demo -bin $(BUILD)

.PHONY: test
test: docker ## every test, with the race detector and the Docker Engine
	CI=true CGO_ENABLED=1 $(GO) test -race -timeout 20m ./...

.PHONY: test-aws
test-aws: ## the wire suite against AWS_ENDPOINT_URL=... (LocalStack: testdata/localstack/compose.yaml)
	$(GO) test -count=1 ./aws/wire/...

.PHONY: test-vm
test-vm: ## containment of hooks under cgroup v2, in a virtual machine (root on Debian or Ubuntu; installs QEMU and debootstrap with apt where they are missing)
	@scripts/vm/run

.PHONY: lint
lint: ## formatting, vet, staticcheck, go.mod in order
	@test -z "$$($(TOOL) gofumpt -l .)" || { $(TOOL) gofumpt -l .; echo 'run: make fmt'; exit 1; }
	$(GO) vet ./...
	$(TOOL) staticcheck ./...
	$(GO) mod tidy -diff

.PHONY: fmt
fmt: ## format everything
	$(TOOL) gofumpt -w .

.PHONY: bench
bench: docker build ## the figures of docs/architecture.md, as ratios in one run (COUNT=10 repetitions; SOAK=2000 commands; KAMAL_PROXY=PATH for that peer)
	@scripts/bench -bin $(BUILD) -count $(COUNT) -soak $(SOAK)

.PHONY: chaos
chaos: docker ## kill -9 of agent, proxy and hmctl at every record and KILLS=500 random moments, power losses (SEED=n repeats a plan), hostile hooks, one of them writing 10 GB, BLACKHOLE=10m without a network
	$(GO) run ./chaos -seed $(SEED) -kills $(KILLS)
	HOSTMANAGER_TEST_LONG=1 $(GO) test -count=1 -v -timeout 30m -run '^TestSpawner_(Flood|NothingEscapes|Limits)' ./internal/proc
	HOSTMANAGER_TEST_BLACKHOLE=$(BLACKHOLE) CI=true $(GO) test -count=1 -v -timeout 1h -run '^TestOutage_OfTheNetwork' ./dev

.PHONY: fuzz
fuzz: ## every fuzz target, FUZZ_TOTAL=10m in all: what comes over the network or out of a bundle
	@scripts/fuzz $(FUZZ_TOTAL)

.PHONY: package
package: build ## dist/: a tar.gz of both binaries with its SHA-256 (deb and rpm: docs/limits.md)
	mkdir -p dist
	tar -C . --sort=name --owner=0 --group=0 --mtime=@$${SOURCE_DATE_EPOCH:-0} -czf dist/hostmanager-$(VERSION)-linux-$$($(GO) env GOARCH).tar.gz \
		README.md LICENSE CHANGELOG.md docs systemd -C $(BUILD) hostmanager hmctl
	cd dist && sha256sum *.tar.gz > SHA256SUMS && cat SHA256SUMS

.PHONY: clean
clean: ## remove what was built
	rm -rf $(BUILD) dist

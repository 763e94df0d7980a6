# make demo, make test; everything else: make help
SHELL    := /bin/bash
TAGS     := containers_image_openpgp,exclude_graphdriver_btrfs,nri_no_wasm
export GOFLAGS := -tags=$(TAGS) -buildvcs=false
export GOTOOLCHAIN := local
export SALLYPORT_DEPS ?= $(CURDIR)/.deps
LDFLAGS  := -s -w
TIME     ?= 10s
KILLS    ?= 500
PKG      ?= ./...
.PHONY: help build deps test test-vm e2e-sigstore record-sigstore demo bench fuzz kills mutants generate lint clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 17

build: ## build the daemon, the operator CLI and the helper into bin/
	@go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/sallyportd ./cmd/sallyport
	@CGO_ENABLED=0 go build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/sallyport-init

deps: ## install Debian packages and build runc, CNI plugins and the test registry into .deps/
	@test/deps.sh

test: deps build lint ## all tests; as root none may be skipped for want of root or a component
	SALLYPORT_REQUIRE_ROOT=$$([ $$(id -u) = 0 ] && echo 1) go test -count=1 -timeout 20m $(PKG)

e2e-sigstore: deps ## sign with a real sigstore and cosign, judge without a network (the first time: minutes of building)
	@test/deps.sh sigstore
	SALLYPORT_REQUIRE_ROOT=1 go test -tags=$(TAGS),sigstore -count=1 -timeout 20m ./test/e2e-sigstore

record-sigstore: deps ## write policy/sigstore/testdata/cosign3 anew with a real sigstore and cosign
	@test/deps.sh sigstore
	SALLYPORT_REQUIRE_ROOT=1 SALLYPORT_RECORD=$(CURDIR)/policy/sigstore/testdata/cosign3 go test -tags=$(TAGS),sigstore -count=1 -run TestRecord ./test/e2e-sigstore

test-vm: deps ## tests on cgroup v2 in an emulated machine (not part of make test; minutes)
	@test/vm/run.sh apparmor

lint: ## gofmt and go vet
	@out=$$(gofmt -l $$(git ls-files '*.go')); [ -z "$$out" ] || { echo "gofmt: $$out"; exit 1; }
	go vet ./...
	go vet -tags=$(TAGS),sigstore ./test/e2e-sigstore

demo: deps build ## show the product on this machine; leaves nothing behind
	@go build -o bin/ ./test/demo && bin/demo -bin bin -deps $(SALLYPORT_DEPS)

bench: deps build ## measure; prints JSON (GROWTH=1: to 500 pods and 5,000 images; TRACE=1: stages)
	@go build -o bin/ ./test/bench && bin/bench -bin bin -deps $(SALLYPORT_DEPS) $(if $(GROWTH),-growth) $(if $(TRACE),-trace)

fuzz: ## run each fuzz target for TIME (default 10s; 200x: so many executions)
	@go run ./test/fuzzall -time $(TIME)

kills: deps ## kill the daemon KILLS times (default 500) at random moments under load
	SALLYPORT_REQUIRE_ROOT=1 go test -count=1 -timeout 120m -v -run '^TestKilledAnywhere$$' ./test/e2e -kills $(KILLS)

mutants: deps ## take out each guard of security/guards.txt; each must turn a test red (KNOWN=folder: skip what it remembers)
	@SALLYPORT_REQUIRE_ROOT=1 go run ./test/mutants -known "$(KNOWN)"

generate: ; go generate ./... ## write the generated docs and files anew

clean: ## remove what was built
	rm -rf bin .deps

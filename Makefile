# Needs Go and make. What needs more says so.
#
#   make            list the targets
#   make build      build ./stsbroker
#   make test       every test that needs Go and make only

MAKEFLAGS += --no-builtin-rules
SHELL     := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# What ships is static and holds no path of the machine it was built on. Nothing in it
# speaks HTTP/2 (its transports choose their own TLS and dialling, which turns that
# off), so net/http's half a megabyte for it stays out.
export CGO_ENABLED := 0
BUILD     := go build -trimpath -tags=nethttpomithttp2 -ldflags='-s -w'

PLATFORMS := linux/arm64 darwin/arm64 windows/amd64
FUZZTIME  ?= 10s
TOOLS     ?= $(CURDIR)/.cache/tools

GOLANGCI_LINT_VERSION := v2.15.0
GOLANGCI_LINT := $(TOOLS)/golangci-lint-$(GOLANGCI_LINT_VERSION)/golangci-lint

IMAGE     ?= localhost/stsbroker:dev
# The certificates that the image trusts for STS: this machine's.
CA_BUNDLE ?= /etc/ssl/certs/ca-certificates.crt
BUILDER   ?= buildah bud --timestamp 0

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' Makefile

.PHONY: build
build: ## build ./stsbroker, static
	$(BUILD) -o stsbroker ./cmd/stsbroker

# The race detector needs cgo, cgo needs a C compiler. CI does without neither.
.PHONY: test
test: ## run the tests that need Go and make only; with -race where a C compiler exists
	@cc=$$(CGO_ENABLED=1 go env CC); \
	if command -v "$${cc%% *}" >/dev/null 2>&1; then \
		echo "race detector: on (C compiler: $$cc)"; CGO_ENABLED=1 go test -race -timeout 8m ./... && go test -run TestWorkFactor ./internal/seal; \
	elif [ "$(CI)" = true ]; then \
		echo "race detector: no C compiler ($$cc), and CI requires it" >&2; exit 1; \
	else \
		echo "race detector: not run: no C compiler ($$cc)"; go test -timeout 8m ./...; \
	fi

.PHONY: bench
bench: ## print the figures: ratios beside a bare net/http handler, allocations, start-up, memory
	go test -run '^$$' -bench . -benchmem -timeout 20m ./broker ./metadata ./cmd/stsbroker

.PHONY: test-clock
test-clock: ## move the wall clock of the whole program, as a suspend does (rebuilds the standard library)
	go test -tags clock -run 'TestWallClock|TestHostClockOff' -count=1 -v -timeout 10m ./cmd/stsbroker

.PHONY: conformance
conformance: ## install and run real STS servers and real AWS clients on loopback (Debian, root, some minutes)
	go test -tags conformance -count=1 -v -timeout 20m ./internal/conformance

.PHONY: conformance-all
conformance-all: ## the same with moto, fakecloud, a SAML provider and all clients; writes docs/sts.md, docs/conformance.md and docs/evening.md (needs cargo; builds for up to ten minutes)
	go test -tags conformance -count=1 -v -timeout 60m ./internal/conformance -everything \
		-matrix='$(CURDIR)/docs/sts.md' -doors='$(CURDIR)/docs/conformance.md' -evening='$(CURDIR)/docs/evening.md'

# FUZZSKIP leaves targets out. CI leaves out the search for differences from the
# SDK: what that finds in five seconds is chance, and make test deals it 1,500
# pairs of files from a fixed seed.
FUZZSKIP  ?= none

# Go 1.26 may report the end of the time itself as a failure, "context deadline
# exceeded" and no input (go.dev/issue/75804, mended in 1.27). That alone is tried once more.
.PHONY: fuzz
fuzz: ## run each fuzz test for FUZZTIME (10s)
	@grep -rl --include='*_test.go' --exclude-dir='.?*' '^func Fuzz' . | while read -r file; do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			[ "$$name" != '$(FUZZSKIP)' ] || continue; \
			echo "$${file%/*} $$name"; \
			for try in 1 2; do \
				out=$$(go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x "$${file%/*}" </dev/null 2>&1) && try=ok; \
				echo "$$out"; \
				[ $$try != ok ] || break; \
				case $$out in *'Failing input'*|*panic*) exit 1;; *'context deadline exceeded'*) ;; *) exit 1;; esac; \
				[ $$try = 1 ] || exit 1; \
			done; \
		done || exit 1; \
	done

.PHONY: lint
lint: $(GOLANGCI_LINT) ## run golangci-lint, built once from its module
	GOLANGCI_LINT_CACHE='$(TOOLS)/golangci-lint-cache' '$(GOLANGCI_LINT)' run --build-tags conformance,clock,booted ./...

$(GOLANGCI_LINT):
	GOBIN='$(@D)' GOFLAGS= go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT_VERSION)

.PHONY: fmt
fmt: ## check gofmt
	@files=$$(gofmt -l cmd broker cache metadata internal deploy); [ -z "$$files" ] || { echo "run gofmt -w on:"; echo "$$files"; exit 1; } >&2

.PHONY: tidy
tidy: ## check that go.mod and go.sum are tidy
	go mod tidy -diff

.PHONY: vet
vet: ## go vet, with the tests behind build tags
	go vet -tags conformance,clock,booted ./...

.PHONY: cross
cross: $(addprefix cross-,$(subst /,-,$(PLATFORMS))) ## build and vet for the other platforms

cross-%:
	GOOS=$(firstword $(subst -, ,$*)) GOARCH=$(lastword $(subst -, ,$*)) go build ./...
	GOOS=$(firstword $(subst -, ,$*)) GOARCH=$(lastword $(subst -, ,$*)) go vet ./...

# The context holds nothing but what goes into the image: root/ for root, own/
# for the user it runs as. Modes are set here, as builders differ in setting them.
.PHONY: image
image: ## build the container image (needs buildah, or BUILDER='docker build')
	rm -rf dist/image
	install -d -m 755 dist/image/root/etc/ssl/certs dist/image/root/usr/bin dist/image/root/home dist/image/root/run dist/image/root/var/lib
	install -d -m 1777 dist/image/root/tmp
	install -d -m 700 dist/image/own/home/stsbroker dist/image/own/run/stsbroker dist/image/own/lib/stsbroker
	install -d -m 711 dist/image/own/tokens/tokens
	install -m 644 deploy/container/passwd deploy/container/group dist/image/root/etc
	install -m 644 '$(CA_BUNDLE)' dist/image/root/etc/ssl/certs/ca-certificates.crt
	GOOS=linux $(BUILD) -o dist/image/root/usr/bin/stsbroker ./cmd/stsbroker
	STORAGE_DRIVER=$${STORAGE_DRIVER:-vfs} BUILDAH_ISOLATION=$${BUILDAH_ISOLATION:-chroot} \
		$(BUILDER) -t '$(IMAGE)' -f deploy/container/Containerfile dist/image

.PHONY: manifests
manifests: ## check the examples for containers by the types of Kubernetes, ECS and Compose
	cd deploy/manifests && go vet -tags image ./... && go test ./...

.PHONY: try-image
try-image: ## build the image twice, and run the examples with it, without a daemon (root, buildah, python3-venv, iproute2)
	deploy/container/try.sh

GORELEASER_VERSION := v2.16.0
GORELEASER := $(TOOLS)/goreleaser-$(GORELEASER_VERSION)/goreleaser

GOVULNCHECK_VERSION := v1.9.0
GOVULNCHECK := $(TOOLS)/govulncheck-$(GOVULNCHECK_VERSION)/govulncheck

# goreleaser knows nothing of a commit where git has no remote.
.PHONY: package
package: $(GORELEASER) ## build archives, deb, rpm, bills of materials and checksums into dist, without a tag
	'$(GORELEASER)' check --quiet
	git remote get-url origin >/dev/null 2>&1 || export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=remote.origin.url GIT_CONFIG_VALUE_0=.; \
	'$(GORELEASER)' release --snapshot --clean

.PHONY: release
release: $(GORELEASER) ## the same from a tag, with nothing uncommitted; see docs/releasing.md
	'$(GORELEASER)' release --clean --skip=publish,announce

.PHONY: reproducible
reproducible: $(GORELEASER) ## build the commit's packages twice, in unlike places, and compare bytes
	deploy/packages/reproduce.sh '$(GORELEASER)'

.PHONY: reproducible-program
reproducible-program: ## build the commit's program twice, the second time all anew and elsewhere, and compare bytes
	@there=$$(mktemp -d) && trap 'rm -rf "$$there"' EXIT && \
	git clone -q . "$$there/a" && git clone -q . "$$there/another/place" && \
	$(MAKE) -s -C "$$there/a" build && \
	( umask 077; TZ=Pacific/Chatham LC_ALL=C GOCACHE="$$there/cache" $(MAKE) -s -C "$$there/another/place" build ) && \
	sha256sum "$$there/a/stsbroker" "$$there/another/place/stsbroker" && cmp "$$there/a/stsbroker" "$$there/another/place/stsbroker"

.PHONY: vulncheck
vulncheck: $(GOVULNCHECK) ## look the dependencies up in Go's vulnerability database; "not run" where that does not answer
	deploy/packages/vulncheck.sh '$(GOVULNCHECK)'

$(GORELEASER):
	GOBIN='$(@D)' GOFLAGS= go install github.com/goreleaser/goreleaser/v2@$(GORELEASER_VERSION)

$(GOVULNCHECK):
	GOBIN='$(@D)' GOFLAGS= go install golang.org/x/vuln/cmd/govulncheck@$(GOVULNCHECK_VERSION)

PROMTOOL_VERSION := v0.316.0
PROMTOOL := $(TOOLS)/promtool-$(PROMTOOL_VERSION)/promtool

# Without service discovery promtool needs few modules and builds in a minute and a half.
.PHONY: alerts
alerts: $(PROMTOOL) ## check and test the alert rules with promtool, built once from its module
	'$(PROMTOOL)' check rules --lint=all --lint-fatal deploy/monitoring/alerts.yaml
	'$(PROMTOOL)' test rules deploy/monitoring/alerts_test.yaml

$(PROMTOOL):
	GOBIN='$(@D)' GOFLAGS= go install -tags remove_all_sd github.com/prometheus/prometheus/cmd/promtool@$(PROMTOOL_VERSION)

.PHONY: booted
booted: ## boot Debian with systemd in a container, and run the units and packages in it (Debian, root; needs make package; the first time a minute more)
	go test -tags booted -count=1 -v -timeout 15m ./internal/booted/... ./deploy/...

.PHONY: clean
clean: ## remove what was built; tools stay
	rm -rf stsbroker dist

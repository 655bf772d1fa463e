# One door to every tool. `make` alone lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.PHONY: audit bench bench-admin bench-fleet bench-instructions bench-memory bench-reload bench-shared bench-table \
	bench-webhook build check \
	conformance demo fmt fuzz help image man release release-notes sbom test test-admin-full \
	test-large tools

CARGO ?= cargo
IMAGE ?= keygate:dev
# Only the last part of the name changes: registries and folders may be called keygate too.
CTL_IMAGE ?= $(shell echo '$(IMAGE)' | sed -E 's%(^|/)keygate([:@]|$$)%\1keygatectl\2%')
# What keygatectl can do beside keys and tables: the management service, and Kubernetes.
FEATURES = admin,kubernetes
# PGO=1: builds with a profile of the running proxy, which takes minutes to make.
WITH_PROFILE = $(if $(filter-out 0,$(PGO)),deploy/with-profile.sh)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Guided tour in a temporary folder; stays up until Ctrl-C (ONCE=1: ends after the tour, with pictures)
	$(CARGO) build --bins --features $(FEATURES)
	@target/debug/keygatectl demo $(if $(filter-out 0,$(ONCE)),--once --then tests/demo.sh)

# Most tests wait for processes and timers most of the time: twice as many at a time as there are
# processors.
test test-admin-full: export RUST_TEST_THREADS ?= $(shell echo $$(( 2 * $$(nproc) )))
test: tools check ## All tests, as CI runs them: format, lints, unit, fuzz corpus, integration, end to end, docs
	$(CARGO) test --no-fail-fast --tests --features $(FEATURES)
	$(CARGO) test --no-fail-fast --doc --features $(FEATURES)

test-admin-full: tools ## Suites of the management service of which `make test` runs a bounded part
	KEYGATE_SCREENS=all $(CARGO) test --lib --features $(FEATURES) registrar::page
	$(CARGO) test --lib --features $(FEATURES) -- --ignored in_many_rounds
	KEYGATE_ADMIN_FULL=1 $(CARGO) test --features $(FEATURES) --test it admin_

test-large: ## Tests that take a minute and a gigabyte each, which `make test` leaves out
	$(CARGO) test --release --lib -- --ignored

check: ## Format and lints, no tests
	$(CARGO) fmt --all --check
	$(CARGO) clippy --quiet --all-targets --features $(FEATURES) -- -D warnings
	$(CARGO) check --quiet --lib --bins # as the sidecar's image is built: without them
	$(CARGO) check --quiet --lib --bins --no-default-features # without shared limits

fuzz: ## Every fuzz target with libFuzzer, SECONDS=60 each; TARGET=name: only that one
	fuzz/run $(or $(TARGET),all) $(or $(SECONDS),60)

fmt: ## Format the sources
	$(CARGO) fmt --all

build: ## Both programs, development profile
	$(CARGO) build --bins

release: ## Both programs as static binaries in target/static/ (what the images hold); PGO=1: by profile
	$(WITH_PROFILE) deploy/build-static.sh target/static keygate
	FEATURES=$(FEATURES) deploy/build-static.sh target/static keygatectl

image: PGO ?= 1
image: release ## Container images of both programs, FROM scratch (IMAGE=, CTL_IMAGE=name:tag); PGO=0: no profile
	deploy/build-image.sh $(IMAGE)
	deploy/build-image.sh $(CTL_IMAGE) deploy/keygatectl.Containerfile

man: ## Man pages of both programs in target/man/
	$(CARGO) run --quiet --example man-pages -- target/man

bench: ## Speed, memory and start-up beside nginx and HAProxy (minutes); PGO=1: of builds by profile
	$(WITH_PROFILE) benches/run.py

bench-table: ## Build, verify and look-up of tables from 1,000 to 10,000,000 keys
	benches/table.sh

bench-admin: tools ## The management service at full size, and from a change to the refusal at sidecars; KEYS, CHANGES
	$(CARGO) build --quiet --release --features $(FEATURES) --bins --example bench-admin --example bench-store
	target/release/examples/bench-store
	KEYS=$(or $(REVOKED_KEYS),10000) target/release/examples/bench-admin

bench-fleet: ## 10,000 simulated sidecars behind 3 distributors: news, failures, memory; SIDECARS, DISTRIBUTORS, NEWS, OUTAGE
	$(CARGO) build --quiet --release --features $(FEATURES) --bins --example bench-fleet
	target/release/examples/bench-fleet

bench-webhook: ## Pods that one core admits, and how long one waits; RATE, SECONDS, CONNECTIONS
	$(CARGO) build --quiet --release --features $(FEATURES) --bins --example bench-webhook
	target/release/examples/bench-webhook

bench-reload: ## Latency of requests while tables reload
	benches/reload.py

bench-shared: ## One limit of three sidecars and a redis-server, beside what one bucket admits; SECONDS
	$(CARGO) build --quiet --release --bins --example bench-shared
	target/release/examples/bench-shared

bench-instructions: ## CPU instructions per request under callgrind; PGO=1: of builds by profile
	$(WITH_PROFILE) benches/instructions.py

bench-memory: ## Attacks on memory at full size in a cgroup of 256 MiB, and what connections cost (root)
	$(CARGO) build --release --bins
	benches/memory.py

conformance: tools ## Public suites against keygate, nginx and HAProxy (minutes)
	tests/conformance/run.sh

audit: ## Licences, bans, sources of dependencies; advisories where the database can be reached
	tests/audit.sh

sbom: ## What the programs are made of, as CycloneDX in target/static/
	deploy/sbom.py target/static/keygate.cdx.json

release-notes: ## The notes of a release from CHANGELOG.md (VERSION=n; without: what is unreleased)
	@deploy/release-notes.sh $(VERSION)

tools: ## Install what the tests need and is missing (Debian; starts no service)
	@tests/tools.sh

# Everything that CI runs is a target here. `make` prints help.

GO     ?= go
PYTHON ?= python3
BUILD  := build
VENV   := $(BUILD)/venv
LINTER := $(BUILD)/bin/golangci-lint
RELEASE := $(BUILD)/bin/release

# Tools for the operator and the chart.
CONTROLLER_GEN := $(CURDIR)/$(BUILD)/bin/controller-gen
CLUSTER_CACHE  ?= $(HOME)/.cache/cluster
HELM           ?= $(CLUSTER_CACHE)/bin/helm

# How long the open-ended targets run.
FUZZ_RUNS    ?= 20000
CRASH_ROUNDS ?= 20
HOSTILE_TIME ?= 2m
N            ?= 100000

# Directories whose tests need root, /dev/fuse or loop devices. The tests of all others need neither
# root nor network.
KERNEL := pkg/volume/fusefs pkg/mounter pkg/mountserver pkg/backend/ebs cmd test
SANITY := pkg/csi
CRASH  := pkg/volume pkg/volume/internal/txn pkg/volume/doublecrypt
# The tests in those directories that `make crash` repeats.
CRASH_TESTS := Crash|Fault

# Directories whose tests need a real API server, from the test cluster's programs.
ENVTEST := pkg/operator pkg/nodeagent cmd/operator charts

# Directories whose tests compare Sealvol with other projects' programs, which rules below build.
INTEROP := test/interop

MODULE = $(shell $(GO) list -m)
within = $(addprefix $(MODULE)/,$(1) $(addsuffix /%,$(1)))
listed_packages  = $(shell $(GO) list ./...)
interop_packages = $(filter $(call within,$(INTEROP)),$(listed_packages))
envtest_packages = $(filter $(addprefix $(MODULE)/,$(ENVTEST)) $(call within,$(ENVTEST)),$(listed_packages))
all_packages     = $(filter-out $(interop_packages) $(envtest_packages),$(listed_packages))
kernel_packages = $(filter $(call within,$(KERNEL)),$(all_packages))
sanity_packages = $(filter $(call within,$(SANITY)),$(all_packages))
crash_packages  = $(filter $(addprefix $(MODULE)/,$(CRASH)),$(all_packages))
unit_packages   = $(filter-out $(call within,$(KERNEL) $(SANITY)),$(all_packages))
commands        = $(filter-out %/libdoublecrypt %/libselfenc,$(filter $(MODULE)/cmd/%,$(all_packages) $(envtest_packages)))

.DEFAULT_GOAL := help
.PHONY: images check-images release pin-sidecars sidecars push changelog registry check-release cluster-build cluster-up cluster-down e2e e2e-upstream e2e-upstream-short
.PHONY: help setup build test unit race vectors fuzz hostile cuts crash fuse sanity interop judges libdoublecrypt libselfenc ec2 bench-ebs moto nvme list lint fmt generate check-generated demo bench bench-snapshots bench-selfenc clean

# The word in brackets is the group in which `make help` prints a target.
help: ## [set-up] print this help
	@.ci/help $(firstword $(MAKEFILE_LIST))

setup: ## [set-up] install missing tools (with apt, as root)
	@.ci/setup

# With the same flags as the images, so that nothing is compiled twice.
build: ## [build] build all commands into bin/, static
	@mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/ $(commands)

test: ## [test] everything that CI runs
	@.ci/setup interop
	@HOSTILE_TIME=2m .ci/stages "build lint check-generated" \
		"unit vectors python interop | cuts" \
		"sanity fuse nvme | envtest race-engine" \
		"race-others | check-release hostile moto" e2e e2e-upstream-short

unit: ## [test] tests that need neither root nor network
	$(GO) test -timeout 30m $(MODULE)/pkg/volume $(filter-out $(MODULE)/pkg/volume,$(unit_packages)) # the longest begins first
	cd tools/rooms && $(GO) test ./...

.PHONY: rooms
rooms: ## [build] measure how the files of the engine hang together
	@$(GO) run -C tools/rooms . -type Volume ../../pkg/volume

# Skipped in pkg/volume: tests that check one image after another. They take longest, and their
# goroutines do the same as in the other tests. `make race RACE_SKIP=-` includes them.
RACE_SKIP ?= ^Test(Damage|Forged|Check|Compare|Hostile|Cut|LongReplay|Scrub$$|ScrubCrash|SnapshotFull|FullVolume|Reserve|Blank|Golden|Mutations|ShareMutations|StatFS|FreePart|OddSizes|Refusals|Marks|SnapshotCost|SnapshotMutations)

.PHONY: race-engine race-others
race: race-engine race-others ## [test] all tests with the race detector, long ones shortened

race-engine: # runs one test at a time, so another stage may run beside it
	$(GO) test -race -short -timeout 40m -skip '$(RACE_SKIP)' ./pkg/volume

# The tests of pkg itself only read sources. Of the command line, what starts program after program
# takes longest under the race detector: only scripts of commands that do several things at once run.
race-others:
	$(GO) test -race -short -timeout 40m $(filter-out $(MODULE)/pkg $(MODULE)/pkg/volume $(MODULE)/cmd/sealvol,$(all_packages))
	$(GO) test -race -short -timeout 20m -skip '^(TestScripts|TestKill.*|TestSnapshotsDocument)$$' ./cmd/sealvol
	$(GO) test -race -short -timeout 20m -run '^TestScripts$$/^(stored.*|online|mount|mapped|rotatedata)$$' ./cmd/sealvol

vectors: $(VENV)/ready ## [test] check golden vectors and fresh output against independent Python programs
	@mkdir -p $(BUILD)/vectors
	$(VENV)/bin/python -B pkg/crypto/testdata/check.py
	$(GO) test -count=1 -run '^(TestVectors|TestFreshVectors)$$' ./pkg/crypto -fresh-vectors $(CURDIR)/$(BUILD)/vectors/crypto.json
	$(VENV)/bin/python -B pkg/crypto/testdata/check.py $(BUILD)/vectors/crypto.json
	$(VENV)/bin/python -B pkg/crypto/testdata/check_snapshots.py
	$(GO) test -count=1 -run '^Test(TenantVectors|FreshTenants)$$' ./pkg/crypto -fresh-tenants $(CURDIR)/$(BUILD)/vectors/tenants.json
	$(VENV)/bin/python -B pkg/crypto/testdata/check_snapshots.py $(BUILD)/vectors/tenants.json
	$(GO) test -count=1 -run '^Test(FreshHeaders|Header.*)$$' ./pkg/volume/internal/layout -fresh-headers $(CURDIR)/$(BUILD)/vectors/headers.json
	$(VENV)/bin/python -B pkg/volume/internal/layout/testdata/check_headers.py $(BUILD)/vectors/headers.json

fuzz: ## [test] run every fuzz target with FUZZ_RUNS inputs (unit runs the seeds)
	@.ci/fuzz $(FUZZ_RUNS)

hostile: ## [test] use volumes forged with the key, for HOSTILE_TIME; HOSTILE_FLAGS="-hostile.seed N -hostile.time 0" repeats a case
	$(GO) test -count=1 -timeout 0 -v -run '^TestHostile$$' ./pkg/volume -hostile.time $(HOSTILE_TIME) $(HOSTILE_FLAGS)

cuts: ## [test] crash models: 20,000 power cuts, 10,000 with anchors, 5,000 with snapshots
	$(GO) test -count=1 -timeout 30m -v -run '^TestCrash$$' ./pkg/volume -crash.cuts 20000
	$(GO) test -count=1 -timeout 30m -v -run '^TestCrashAnchors$$' ./pkg/volume -anchor.cuts 10000
	$(GO) test -count=1 -timeout 30m -v -run '^TestSnapshotCrash$$' ./pkg/volume -crash.cuts 5000

crash: ## [test] repeat the crash and fault models CRASH_ROUNDS times with new seeds
	$(GO) test -count=$(CRASH_ROUNDS) -timeout 0 -run '$(CRASH_TESTS)' -v $(crash_packages)

fuse: ## [test] tests on real mounts; needs root and /dev/fuse
	@test -n "$(kernel_packages)" || { echo "no package in $(KERNEL)" >&2; exit 1; }
	$(GO) test -count=1 -timeout 30m $(kernel_packages)

sanity: ## [test] csi-sanity; needs root
	@test -n "$(sanity_packages)" || { echo "no package in $(SANITY)" >&2; exit 1; }
	$(GO) test -count=1 -timeout 15m $(sanity_packages)

.PHONY: gc-model
gc-model: ## [test] protocol of snapshot stores: N random interleavings; GC_FLAGS="-gc.seed S" repeats one, -gc.deep visits all of a large scenario (over 15 minutes)
	$(GO) test -count=1 -timeout 0 -v -run '^Test(RandomModel|DeepModel)$$' ./pkg/snapshot/gc -gc.runs $(N) $(GC_FLAGS)

.PHONY: envtest
envtest: cluster-build ## [test] operator, node agent and chart against a real API server
	$(GO) test -race -count=1 -timeout 15m $(envtest_packages)

interop: judges $(BUILD)/venv-python/ready $(BUILD)/venv-selfenc/ready $(BUILD)/venv-selfenc31/ready $(BUILD)/bin/versitygw ## [test] exchange data with the reference implementations and an S3 gateway
	$(GO) test -count=1 -timeout 15m $(interop_packages)

libdoublecrypt: ## [build] the C library of format v1 and its header, into build/libdoublecrypt/
	$(call c_library,$@,doublecrypt.h)

# PYTHONPATH=python uses the copy.
libselfenc: ## [build] the C library of self-encryption and its header, into build/libselfenc/
	$(call c_library,$@,selfenc.h)
	@cp $(BUILD)/$@/$@.so python/self_encryption/

.PHONY: python
python: $(BUILD)/venv-python/ready ## [test] build, install and test the Python package; wheel and sdist in build/python/
	$(BUILD)/venv-python/bin/python -B python/tests/page.py
	PYTHONPATH=$(BUILD)/python/package $(PYTHON) -B python/tests/page.py
	$(BUILD)/venv-python/bin/python -B -m unittest discover -s python/tests
	cd python && ../$(BUILD)/venv-python/bin/mypy --strict --cache-dir=/dev/null self_encryption
	cd python/tests && ../../$(BUILD)/venv-python/bin/mypy --strict --cache-dir=/dev/null page.py

# Each library gets a directory with its handwritten header. The header that cgo generates is not usable
# from plain C.
define c_library
@mkdir -p $(BUILD)/$(1)
CGO_ENABLED=1 $(GO) build -trimpath -buildmode=c-shared -o $(BUILD)/$(1)/$(1).so ./cmd/$(1)
CGO_ENABLED=1 $(GO) build -trimpath -buildmode=c-archive -o $(BUILD)/$(1)/$(1).a ./cmd/$(1)
@rm -f $(BUILD)/$(1)/$(1).h
@cp cmd/$(1)/$(2) $(BUILD)/$(1)/
endef

list: ## [test] print which packages the targets test
	@echo "unit:";   printf '  %s\n' $(unit_packages)
	@echo "sanity:"; printf '  %s\n' $(sanity_packages)
	@echo "fuse:";   printf '  %s\n' $(kernel_packages)
	@echo "envtest:"; printf '  %s\n' $(envtest_packages)
	@echo "interop:"; printf '  %s\n' $(interop_packages)

lint: $(LINTER) ## [test] linters, shell scripts, licences of dependencies
	$(LINTER) run ./...
	@for f in .ci/* tools/images tools/dist test/e2e/install test/e2e/run test/e2e/postgresql-image test/e2e/upstream/run test/nvme/kernel $(filter-out %.md %.env %.mod %.sum %/,$(wildcard test/cluster/*)); do test ! -f "$$f" || bash -n "$$f" || exit 1; done
	cd tools/licences && $(GO) vet ./... && $(GO) test ./... && $(GO) run . -root $(CURDIR)

fmt: $(LINTER) ## [build] format all Go files
	$(LINTER) fmt ./...

generate: $(VENV)/ready $(BUILD)/bin/controller-gen $(HELM) $(RELEASE) ## [build] write all generated files: vectors, examples, CRDs, roles, manifests, READMEs, licences
	$(VENV)/bin/python -B pkg/volume/internal/layout/testdata/check_headers.py --write
	$(GO) test -count=1 -run Document ./pkg/volume/internal/layout -update
	$(GO) generate ./...
	$(GO) test -count=1 -run '^TestDocument$$' ./pkg/operator/matrixtest -update
	charts/generate $(CONTROLLER_GEN) $(HELM)
	$(RELEASE) chart-readme
	$(GO) test -count=1 -run '^TestADR$$' ./pkg -adr.update
	cd tools/licences && $(GO) run . -root $(CURDIR) -write

check-generated: ## [test] fail if generated files are not up to date
	@.ci/check-generated $(MAKE) --no-print-directory generate

demo: setup build ## [cluster] a sealed volume, end to end, on this machine, without a cluster
	bin/demo

images: ## [build] container images for amd64 and arm64, into build/images/
	@nice tools/images $(BUILD)/images

check-images: ## [test] fail if two builds of the images differ; writes build/images/
	cd tools/image && $(GO) test ./...
	@nice .ci/check-images

# The version of a release, and its directory.
VERSION ?=
ARCHES  ?= amd64 arm64
DIST    ?= dist/$(VERSION)

release: ## [release] make a release in dist/VERSION: VERSION=v0.1.0 SIGN_KEY=FILE ARCHES=amd64 (docs/release.md)
	@SIGN_KEY="$(SIGN_KEY)" ARCHES="$(ARCHES)" nice tools/dist "$(VERSION)" "$(DIST)"

sidecars: $(RELEASE) ## [release] download the sidecars' images: VERSION= SIDECARS=REGISTRY or a directory of archives
	@$(RELEASE) sidecars -dist "$(DIST)" -from "$(SIDECARS)" $(if $(INSECURE),-insecure)

pin-sidecars: $(RELEASE) ## [release] write the sidecars' digests into charts/sidecars.lock, for make release: SIDECARS=REGISTRY
	@$(RELEASE) pin-sidecars -from "$(SIDECARS)" $(if $(INSECURE),-insecure)

push: $(RELEASE) ## [release] push a release's images: VERSION=v0.1.0 REGISTRY=HOST[:PORT][/PATH]; INSECURE=1 for HTTP
	@$(RELEASE) push -dist "$(DIST)" -registry "$(REGISTRY)" $(if $(INSECURE),-insecure) $(if $(FORCE),-force)

changelog: $(RELEASE) ## [release] move unreleased changes into the section of VERSION in CHANGELOG.md
	@$(RELEASE) changelog -version "$(VERSION)"

LISTEN ?= 127.0.0.1:5000
registry: $(RELEASE) ## [release] run a registry on LISTEN to try `make push`, until it is interrupted
	@$(RELEASE) registry -listen "$(LISTEN)" -dir $(BUILD)/registry

check-release: $(HELM) ## [test] fail if two releases differ, or if one cannot be pushed, pulled and rendered
	@nice .ci/check-release $(HELM)

cluster-build: ## [cluster] build the test cluster into ~/.cache/cluster (test/cluster/README.md)
	@test/cluster/build

cluster-up: ## [cluster] start the test cluster
	@test/cluster/up

cluster-down: ## [cluster] stop the test cluster
	@test/cluster/down

e2e: ## [test] stories in a real cluster: E2E_KEEP=1 keeps it, E2E_FLAGS="-run First" selects
	@test/e2e/run $(E2E_FLAGS)

# The demo has a cluster of its own, separate from the tests' clusters.
DEMO := CLUSTER_NAME=$${CLUSTER_NAME:-demo} CLUSTER_SUBNET=$${CLUSTER_SUBNET:-10.233.0}
.PHONY: demo-cluster demo-cluster-env demo-cluster-down
demo-cluster: ## [cluster] start a cluster with Sealvol installed, for docs/tour.md
	@$(DEMO) test/e2e/install
	@echo 'Now: eval "$$(make -s demo-cluster-env)", and docs/tour.md'

demo-cluster-env:
	@$(DEMO) test/cluster/env

demo-cluster-down: ## [cluster] stop that cluster
	@$(DEMO) test/cluster/down

e2e-upstream: ## [test] Kubernetes' own storage suite, all that Sealvol claims
	@test/e2e/upstream/run

e2e-upstream-short: ## [test] a bounded part of it, for CI
	@test/e2e/upstream/run short

bench: build ## [bench] compare with gocryptfs, ext4 and a file system in memory: BENCH_FLAGS="-short", "-gp3", ...
	@.ci/setup bench
	bin/bench $(BENCH_FLAGS)

bench-snapshots: build ## [bench] stored snapshots beside restic and borg: BENCH_FLAGS="-short", "-run source", "-json FILE", ...
	@.ci/setup bench
	bin/bench snapshots $(BENCH_FLAGS)

ec2: ## [cluster] run an EC2 simulator on loopback, to try the ebs backend: EC2_FLAGS="--fast", ...
	@mkdir -p bin
	$(GO) build -trimpath -o bin/ ./cmd/ec2
	bin/ec2 $(EC2_FLAGS)

bench-ebs: ## [bench] create, attach and mount 200 volumes on a simulated EC2 with real delays
	$(GO) test -run '^$$' -bench EBS200 -benchtime 1x -timeout 30m ./cmd/driver

moto: $(BUILD)/venv-moto/ready ## [test] run the ebs backend against another EC2 simulator (moto)
	SEALVOL_MOTO=$(CURDIR)/$(BUILD)/venv-moto/bin/moto_server $(GO) test -count=1 -tags moto -run Moto ./pkg/backend/ebs

nvme: build ## [test] device handling with NVMe hot-plug in a virtual machine: NVME_FLAGS="-v -run Life", ...
	@.ci/setup nvme
	@nice test/nvme/kernel $(BUILD)/nvme/kernel
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BUILD)/nvme/agent ./test/nvme/agent
	$(GO) test -count=1 -timeout 20m -tags nvme ./test/nvme -nvme.kernel $(CURDIR)/$(BUILD)/nvme/kernel -nvme.driver $(CURDIR)/bin/driver -nvme.agent $(CURDIR)/$(BUILD)/nvme/agent $(NVME_FLAGS)

$(BUILD)/venv-moto/ready: tools/moto/requirements.txt
	$(PYTHON) -m venv $(BUILD)/venv-moto
	$(BUILD)/venv-moto/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

bench-selfenc: build judges ## [bench] self-encryption beside the reference crate, by stage, and the memory of a stream
	$(GO) test -run '^$$' -bench Stages -benchtime 20x ./pkg/selfenc
	$(GO) run ./test/interop/selfenc/beside $(BENCH_FLAGS)

clean: ## [set-up] remove everything that was built
	rm -rf bin dist $(BUILD) python/build python/*.egg-info python/self_encryption/libselfenc.so

# Each tool is pinned by a `tool` line in a module of its own, and not in go.mod: there its
# dependencies would affect the versions that we ship. (controller-gen, whose dependencies are closest
# to ours, would add seven modules and raise the version of fsnotify in the operator.)
$(LINTER): tools/go.mod tools/go.sum
	@mkdir -p $(@D)
	cd tools && $(GO) build -o $(CURDIR)/$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

# A module of its own: its dependencies talk to registries.
$(RELEASE): $(wildcard tools/release/*)
	@mkdir -p $(@D)
	cd tools/release && CGO_ENABLED=0 $(GO) build -o $(CURDIR)/$@ .

# Needed by the tests in test/interop.
CARGO ?= cargo

# Builds both programs. cargo detects what has changed.
judges: ## [build] build the reference programs that make interop compares with
	@.ci/setup interop
	$(CARGO) build --quiet --locked --release --manifest-path test/interop/Cargo.toml --target-dir $(BUILD)/cargo

$(BUILD)/venv-selfenc/ready: test/interop/selfenc/requirements.txt
$(BUILD)/venv-selfenc31/ready: test/interop/selfenc/requirements-31.txt
$(BUILD)/venv-selfenc/ready $(BUILD)/venv-selfenc31/ready:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $< </dev/null # pip compiles: rustc must not read our standard input
	@touch $@

# Installs the package in a fresh environment, and the wheel built from the sdist alone in a directory.
$(BUILD)/venv-python/ready: python/tests/requirements.txt $(wildcard python/*.toml python/*.py python/*.in python/*.md python/self_encryption/*.py cmd/libselfenc/* pkg/selfenc/*.go pkg/crypto/*.go) go.sum
	rm -rf $(BUILD)/python python/build
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -r $< ./python
	$(@D)/bin/python -m build --outdir $(BUILD)/python python >$(BUILD)/python.log 2>&1 || { cat $(BUILD)/python.log; exit 1; }
	$(@D)/bin/pip install --quiet --disable-pip-version-check --target $(BUILD)/python/package $(BUILD)/python/*.whl
	@touch $@

# A module of its own, like the linter.
$(BUILD)/bin/versitygw: tools/versitygw/go.mod tools/versitygw/go.sum
	@mkdir -p $(@D)
	cd tools/versitygw && $(GO) build -o $(CURDIR)/$@ github.com/versity/versitygw/cmd/versitygw

$(VENV)/ready: tools/requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

$(HELM):
	$(MAKE) cluster-build

# A module of its own, like the linter.
$(BUILD)/bin/controller-gen: tools/controller-gen/go.mod tools/controller-gen/go.sum
	@mkdir -p $(@D)
	cd tools/controller-gen && $(GO) build -o $(CURDIR)/$@ sigs.k8s.io/controller-tools/cmd/controller-gen

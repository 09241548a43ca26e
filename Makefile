# What a newcomer needs: `make demo`, `make test`. Everything else is cargo.

export UMDEV_CACHE ?= $(CURDIR)/.cache
PROFILE ?= dev
# nextest runs each test in a process of its own; plain cargo test does as well where it is absent
RUNNER := $(shell cargo nextest --version >/dev/null 2>&1 && echo nextest run || echo test)

.PHONY: help deps build demo test test-full bench bench-guests bench-datapath instructions fuzz miri

help:
	@echo 'make demo       a Linux guest in QEMU that pings and downloads through an instance'
	@echo 'make test       what CI runs'
	@echo 'make test-full  the same and the long tests'
	@echo 'make fuzz       each fuzz target for TIME seconds (60)'
	@echo 'make miri       the ring engine and its model under Miri'
	@echo 'make bench      figures, as a table and as JSON; BASE=<commit> compares with that one'
	@echo 'make bench-guests    the part of it that has guests in QEMU; ROUNDS=1 is brief'
	@echo 'make bench-datapath  packets a second beside DPDK; ARGS="--quick", ARGS="--cell loop/split", ARGS=--verify'
	@echo 'make instructions    instructions a packet, counted and compared; ARGS=--keep keeps them'
	@echo 'make deps       only install what these need (Debian 12, root)'

deps:
	@scripts/deps

# the programs that whole-system tests start
build: deps
	cargo build --workspace --locked --profile $(PROFILE)

demo: deps
	@cargo build --quiet --locked --profile $(PROFILE) -p umdevd -p qemu-backend-shim -p umdev-tests
	@cargo run --quiet --locked --profile $(PROFILE) -p umdev-tests --bin umdev-demo

test: build
	cargo $(RUNNER) --workspace --locked
	cargo test --workspace --locked --doc

test-full: build
	cargo $(RUNNER) --workspace --locked --features umdev-tests/full
	cargo test --workspace --locked --doc

# BASE=<commit> compares with the daemon of that commit, both in turn in one run
bench: deps
	cargo build --locked --release -p umdevd -p qemu-backend-shim
	cargo build --locked --release -p loopback --example packets
	cargo build --locked --release -p umdev-tests --bin umdev-traffic
	$(if $(BASE),base=$$(scripts/base $(BASE)) &&) cargo run --locked --release -p umdev-tests --bin umdev-bench -- $(if $(BASE),--base "$$base")

# ROUNDS=1 takes half a minute
ROUNDS ?= 9
bench-guests: deps
	cargo build --locked --release -p umdevd -p qemu-backend-shim
	cargo build --locked --release -p umdev-tests --bin umdev-traffic
	cargo run --locked --release -p umdev-tests --bin umdev-bench -- --guests $(ROUNDS)

# ARGS="--help" tells what can be chosen
bench-datapath: deps
	cargo build --locked --release -p umdevd -p qemu-backend-shim
	cargo run --locked --release -p umdev-tests --bin umdev-datapath -- $(ARGS)

# counted by valgrind, so that neither time nor other work on the machine matters
instructions: deps
	cargo build --locked --release -p loopback --example packets
	cargo run --locked --release -p umdev-tests --bin umdev-instructions -- $(ARGS)

# Needs a nightly compiler with miri and rust-src.
miri:
	PROPTEST_CASES=1 MIRIFLAGS='-Zmiri-disable-isolation -Zmiri-disable-weak-memory-emulation' \
		cargo +nightly miri test -p virtqueue --test model -- as_its_model_says

# Needs cargo-fuzz and a nightly compiler. What is found new goes to fuzz/corpus, a crash to fuzz/artifacts. Threads that
# end while leaks are looked for would count as leaks: the targets look for what is left behind themselves.
TIME ?= 60
fuzz:
	for target in $$(cargo +nightly fuzz list); do \
		ASAN_OPTIONS=detect_leaks=0 \
			cargo +nightly fuzz run $$target -- -max_total_time=$(TIME) -max_len=1024 -rss_limit_mb=2048 || exit; \
	done

# AegisRay. `make lab` and `make test` do everything, set-up included.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
CARGO_HOME ?= $(HOME)/.cargo
export PATH := $(CARGO_HOME)/bin:$(PATH)
DENY_VERSION := 0.20.2
FUZZ_SECONDS ?= 60

.PHONY: help setup setup-tests setup-lint build lab test cases bench lint fuzz clean

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##|^[a-z-]+: *##' $(MAKEFILE_LIST) | sed 's/:.*##/ —/'

setup:           ## install what building and the lab need, or say how
	@scripts/setup.sh

setup-tests:     ## the same, and what the tests need
	@scripts/setup.sh tests

setup-lint: setup
	@command -v cargo-deny >/dev/null || cargo install --quiet --locked cargo-deny --version $(DENY_VERSION)

build: setup     ## release build
	cargo build --release

lab: build       ## a real mesh with NATs on this machine, live on the screen
	@target/release/aegisray lab

test: setup-tests ## all tests
	cargo test --profile tested
	cargo test --profile tested --features browser-hello --lib --test stealth -- stealth:: detectors borrowed_site_members tcp_443
	$(MAKE) --no-print-directory fuzz

fuzz: setup      ## every fuzz target for FUZZ_SECONDS seconds (60), two at a time on two processors
	@FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz.sh

cases: setup-tests ## what users of comparable programs have reported, tried on this one
	@scripts/cases.sh

bench: setup     ## criterion benches
	cargo bench

lint: setup-lint ## formatting, clippy, licences and sources of dependencies, documentation
	cargo fmt --all --check
	cargo clippy --profile tested --workspace --all-targets -- -D warnings
	cargo clippy --profile tested --all-targets --features browser-hello,bench-plaintext -- -D warnings
	cargo deny --log-level error --all-features check bans licenses sources
	RUSTDOCFLAGS="-D warnings" cargo doc --profile tested --no-deps --quiet

clean:
	cargo clean

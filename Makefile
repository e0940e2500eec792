CARGO ?= cargo
ARGS ?=
FUZZ_SECONDS ?= 600
DRILL_SECONDS ?= 600
-include .env
export

.PHONY: demo setup contract test lint release bench soak migrate run-control run-gateway

demo:
	$(CARGO) run --locked -- demo $(ARGS)

setup:
	scripts/setup.sh

contract:
	HTTVPS_WRITE_CONTRACT=1 $(CARGO) test --locked --lib contract

test: lint
	scripts/test.sh $(CARGO) test --locked $(ARGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	scripts/msrv.sh
	scripts/setup.sh cargo-deny
	PATH="$${CARGO_HOME:-$$HOME/.cargo}/bin:$$PATH" cargo-deny --locked check bans licenses sources

release:
	scripts/release.sh

bench:
	scripts/bench.sh $(ARGS)

soak:
	scripts/soak.sh $(DRILL_SECONDS)
	scripts/autobahn.sh
	scripts/testssl.sh
	scripts/schemathesis.sh
	scripts/fuzz.sh $(FUZZ_SECONDS)
	HTTVPS_BENCH_STRICT=1 scripts/bench.sh flood rate line

migrate:
	$(CARGO) run --release --locked -- migrate $(ARGS)

run-control:
	$(CARGO) run --release --locked -- serve-control $(ARGS)

run-gateway:
	$(CARGO) run --release --locked -- serve-gateway $(ARGS)

CARGO ?= cargo
ARGS ?=
-include .env
export

.PHONY: demo test lint bench migrate run-control run-gateway

demo:
	$(CARGO) run --locked -- demo $(ARGS)

test: lint
	scripts/test.sh $(CARGO) test --locked $(ARGS)

lint:
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

bench:
	scripts/test.sh $(CARGO) bench --locked --bench tunnel

migrate:
	$(CARGO) run --release --locked -- migrate $(ARGS)

run-control:
	$(CARGO) run --release --locked -- serve-control $(ARGS)

run-gateway:
	$(CARGO) run --release --locked -- serve-gateway $(ARGS)

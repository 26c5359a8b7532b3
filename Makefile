# Two commands: `make run` shows the hub at work, `make test` proves that it keeps its promises.

CARGO ?= cargo
HUB = target/debug/tomada
# connectors/carinho is a library that some of them share.
CONNECTORS = $(filter-out connectors/carinho/,$(dir $(wildcard connectors/*/Cargo.toml)))
GUESTS = $(dir $(wildcard tests/guests/*/Cargo.toml))

.PHONY: run test components toolchain official-clients hub bench lint clean

run: components
	$(HUB) demo

# Beside servers of its own, as far as they are installed or can be; its last line says what could not be tested.
test: components official-clients
	@.ci/databases run -- $(CARGO) test --workspace --exclude 'tomada-guest-*'

hub:
	$(CARGO) build -p tomada

# Connectors and the tests' guests, as components in target/components.
components: hub toolchain
	$(HUB) connector build $(CONNECTORS) $(GUESTS)

# What compiles them: rustup's target where it can be had, else Debian's toolchain.
toolchain:
	@.ci/wasm-toolchain

# What the tests with the official signature libraries need.
official-clients:
	@.ci/official-clients

bench: components
	$(CARGO) build --release -p tomada
	target/release/tomada bench ingest --compare axum
	target/release/tomada bench e2e

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

clean:
	$(CARGO) clean

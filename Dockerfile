FROM rust:1-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src benches/control benches/tunnel tests/integration \
    && touch src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs benches/control/main.rs benches/tunnel/main.rs tests/integration/main.rs \
    && cargo build --release --locked \
    && cargo clean --release --locked -p httvps \
    && rm -rf src benches tests
COPY . .
RUN scripts/release.sh

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && apt-get clean && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 httvps \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /var/lib/httvps --shell /usr/sbin/nologin httvps \
    && install -d -o 10001 -g 10001 -m 0700 /var/lib/httvps
COPY --from=build /src/target/dist/httvps /usr/local/bin/httvps
COPY --from=build /src/target/dist/httvps.debug /usr/lib/debug/usr/local/bin/httvps.debug
USER 10001:10001
WORKDIR /var/lib/httvps
EXPOSE 8080 8443
ENTRYPOINT ["httvps"]

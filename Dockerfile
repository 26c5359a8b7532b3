# The hub with the components that ship, for a user without rights. See compose.yaml.
#
#   docker build -t tomada .

FROM rust:1.95-bookworm AS build
RUN rustup target add wasm32-unknown-unknown
WORKDIR /src
# What is named here is all that is sent to the builder.
COPY Cargo.toml Cargo.lock ./
COPY migrations migrations
COPY wit wit
COPY sdk sdk
COPY connectors connectors
COPY runtime runtime
COPY tests tests
RUN cargo build --release --locked -p tomada
# connectors/carinho is a library that some of them share.
RUN target/release/tomada connector build --out /components \
    $(find connectors -mindepth 1 -maxdepth 1 -type d ! -name carinho)

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin tomada \
    && install -d -o tomada -g tomada -m 700 /var/lib/tomada
COPY --from=build /src/target/release/tomada /usr/local/bin/tomada
COPY --from=build /components /usr/share/tomada/components
ENV TOMADA_DATA=/var/lib/tomada TOMADA_LISTEN=0.0.0.0:8080
USER 10001:10001
VOLUME /var/lib/tomada
EXPOSE 8080
# The hub ends what is under way on SIGTERM: give it 30 s (docker stop --time 30).
STOPSIGNAL SIGTERM
# Debian's image has no client for HTTP, but a shell that opens sockets.
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s CMD ["bash", "-c", \
    "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /health HTTP/1.1\\r\\nHost: hub\\r\\nConnection: close\\r\\n\\r\\n' >&3 && head -n 1 <&3 | grep -q ' 200 '"]
ENTRYPOINT ["tomada"]
CMD ["serve", "--log-json"]

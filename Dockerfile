# syntax=docker/dockerfile:1
# The coordinator alone, in an image without a shell.
#
#   docker build -t unanimo .
#   docker run --rm unanimo --help

FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p unanimo \
    && cp target/release/unanimo /usr/local/bin/unanimo \
    && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/unanimo /usr/local/bin/unanimo
# Where the SQLite file is if no database is named.
COPY --from=build --chown=nonroot:nonroot /data /data
WORKDIR /data
VOLUME /data
# gRPC, and health and metrics over HTTP. What they listen on must be said: by default loopback only.
EXPOSE 7610 7611
# SIGTERM hands over and leaves; give it as long as `drain-timeout` (30 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["unanimo"]
CMD ["serve"]

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
# Folder for a file of SQLite: UNANIMO_DATABASE_URL=sqlite:/data/unanimo.db.
COPY --from=build --chown=nonroot:nonroot /data /data
WORKDIR /data
VOLUME /data
# Ports of gRPC, and of health and metrics over HTTP. By default both listen on loopback only: set
# UNANIMO_DATABASE_URL, UNANIMO_LISTEN and UNANIMO_ADMIN_LISTEN, and either the files of TLS (docs/security.md) or
# UNANIMO_INSECURE.
EXPOSE 7610 7611
# SIGTERM stops it in good order. Allow it more time than `drain-timeout` (30 s).
STOPSIGNAL SIGTERM
ENTRYPOINT ["unanimo"]
CMD ["serve"]

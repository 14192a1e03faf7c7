# Container image of uproar: one static program without any other file, which does not run as root.
#
#   docker build -t uproar .
#   docker run -p 8000:8000 --stop-timeout 30 uproar
#   docker run -p 8000:8000 --stop-timeout 30 -v ./uproar.toml:/uproar.toml:ro uproar --config /uproar.toml
#
# docs/operations.md explains io_uring, ports and signals in containers. tests/container/run tests the program.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# The server resolves no host names and loads no modules, so glibc can be linked statically.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin uproar --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && cp target/*/release/uproar /uproar

FROM scratch
COPY --from=build /uproar /uproar
USER 65532:65532
EXPOSE 8000
# A variable instead of a flag, so that `docker run uproar --listen …` can override it: flags come first.
ENV UPROAR_LISTEN=0.0.0.0:8000
# Process 1 gets Docker's signals: SIGTERM shuts the server down, SIGHUP reloads its settings.
ENTRYPOINT ["/uproar"]

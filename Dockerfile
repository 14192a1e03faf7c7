# Container image of uproar: one static program and the certificate authorities, which does not run as root.
#
#   docker build -t uproar .
#   docker run -p 8000:8000 --stop-timeout 30 uproar
#   docker run -p 8000:8000 --stop-timeout 30 -v ./uproar.toml:/uproar.toml:ro uproar --config /uproar.toml
#
# docs/operations.md explains io_uring, ports and signals in containers. tests/container/run tests the program.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# glibc can be linked statically: the server loads no modules, and glibc resolves host names from /etc/hosts and DNS without
# any (the linker's warning about getaddrinfo is about other sources of names).
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin uproar --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && cp target/*/release/uproar /uproar

FROM scratch
COPY --from=build /uproar /uproar
# For https:// webhooks. To trust other authorities, mount them here or set UPROAR_CA_FILE.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8000
# A variable instead of a flag, so that `docker run uproar --listen …` can override it: flags come first.
ENV UPROAR_LISTEN=0.0.0.0:8000
# Process 1 gets Docker's signals: SIGTERM shuts the server down, SIGHUP reloads its settings.
ENTRYPOINT ["/uproar"]

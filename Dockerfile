# uproar as a container: one static program, nothing else, not root.
#
#   docker build -t uproar .
#   docker run -p 8000:8000 --stop-timeout 30 uproar
#   docker run -p 8000:8000 --stop-timeout 30 -v ./uproar.toml:/uproar.toml:ro uproar --config /uproar.toml
#
# docs/operations.md says what to know: io_uring, ports, signals. tests/container/run builds and runs the program as here.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
COPY . .
# No name is looked up and no module loaded at run time, so the C library can be linked in.
RUN RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin uproar --target "$(rustc -vV | sed -n 's/^host: //p')" \
    && cp target/*/release/uproar /uproar

FROM scratch
COPY --from=build /uproar /uproar
USER 65532:65532
EXPOSE 8000
# Variables, so that options can be given after the name of the image; a flag beats a variable.
ENV UPROAR_LISTEN=0.0.0.0:8000
# SIGTERM ends it, SIGHUP has it read its settings again.
ENTRYPOINT ["/uproar"]

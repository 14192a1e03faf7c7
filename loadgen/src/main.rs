//! The `loadgen` program. Its code is in the `loadgen` library.

use std::process::ExitCode;

fn main() -> ExitCode {
    loadgen::main()
}

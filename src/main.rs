//! The `httvps` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    httvps::cli::main()
}

//! The command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    tomada::cli::main()
}

//! `qbench`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    qbench::main()
}

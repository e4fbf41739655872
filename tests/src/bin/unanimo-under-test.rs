//! Program `unanimo`, which kills itself at the crash point that the environment names.

use std::process::ExitCode;

/// The allocator of `unanimo`: its memory is measured.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    unanimo_tests::crash::arm();
    unanimo::main()
}

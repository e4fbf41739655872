//! The binary `unanimo`: a thin shell around the library.

use std::process::ExitCode;

/// Small messages are many small allocations; see "Speed" in ARCHITECTURE.md.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    unanimo_coordinator::cli::main()
}

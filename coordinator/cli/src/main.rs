//! The program `unanimo`.

use std::process::ExitCode;

/// Small messages are many small allocations; see "Speed" in ARCHITECTURE.md.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    unanimo::main()
}

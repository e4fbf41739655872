//! The program `unanimo`.

use std::process::ExitCode;

/// Allocator for the many small allocations of small messages; see "Speed" in ARCHITECTURE.md.
#[global_allocator]
static GLOBAL: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    unanimo::main()
}

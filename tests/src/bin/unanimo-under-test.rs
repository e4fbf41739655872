//! The coordinator's own program, which kills itself at a point that the environment names.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

fn main() -> ExitCode {
    if let Ok(crash) = std::env::var("UNANIMO_CRASH_AT") {
        let (point, nth) = crash.split_once(':').expect("POINT:VISIT");
        let nth: u32 = nth.parse().expect("a number");
        let visits = AtomicU32::new(0);
        let armed = fail::cfg_callback(point, move || {
            if visits.fetch_add(1, Ordering::SeqCst) + 1 == nth {
                // As if by `kill -9`: no destructor, no flush, no farewell.
                let _ = kill_process(getpid(), Signal::KILL);
            }
        });
        armed.expect("a point that can be armed");
    }
    unanimo_coordinator::cli::main()
}

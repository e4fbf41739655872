//! What a program under test dies of, as its environment says.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// `POINT:VISIT`, and after another colon whom to kill: a process's id, or nobody for oneself.
pub const VARIABLE: &str = "UNANIMO_CRASH_AT";

/// Arms the point that the environment names: at that visit of it a process is killed as if by
/// `kill -9`, with no destructor, no flush, and no farewell.
///
/// # Panics
/// The variable makes no sense.
pub fn arm() {
    let Ok(crash) = std::env::var(VARIABLE) else { return };
    let mut words = crash.split(':');
    let point = words.next().expect("a point");
    let nth: u32 = words.next().expect("a visit").parse().expect("a number");
    let victim = match words.next() {
        Some(pid) => Pid::from_raw(pid.parse().expect("a number")).expect("a process"),
        None => getpid(),
    };
    let visits = AtomicU32::new(0);
    let armed = fail::cfg_callback(point, move || {
        if visits.fetch_add(1, Ordering::SeqCst) + 1 == nth {
            // It may have died by itself meanwhile.
            let _ = kill_process(victim, Signal::KILL);
        }
    });
    armed.expect("a point that can be armed");
}

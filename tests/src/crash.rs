//! Crash point of a program under test, which its environment names.

use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, getpid, kill_process};

/// Variable with `POINT:VISIT`, or with `POINT:VISIT:PID` to kill another process.
pub const VARIABLE: &str = "UNANIMO_CRASH_AT";

/// Arms the crash point that the environment names: at that visit a process is killed as by
/// `kill -9`, without destructors and without flushing buffers.
///
/// # Panics
/// The variable is not of this form.
pub fn arm() {
    if let Ok(crash) = std::env::var(VARIABLE) {
        arm_at(&crash);
    }
}

/// Arms a crash point, as [`arm`] does.
///
/// # Panics
/// The text is not of the form of [`VARIABLE`].
pub fn arm_at(crash: &str) {
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
            // The process may have ended already.
            let _ = kill_process(victim, Signal::KILL);
        }
    });
    armed.expect("a point that can be armed");
}

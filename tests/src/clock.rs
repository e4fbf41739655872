//! Clock of a process that a test can set, by libfaketime.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::installed::libfaketime;
use crate::reaper::run_folder;

/// Clock that a process goes by. Its monotonic clock is left alone.
#[derive(Debug)]
pub struct Clock {
    file: PathBuf,
}

impl Clock {
    /// Makes a clock that tells the true time.
    #[must_use]
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let clock = Self { file: run_folder().join(format!("clock{number}")) };
        clock.set_off_by(0);
        clock
    }

    /// Sets it to the true time and so many seconds. A process follows within a second.
    ///
    /// # Panics
    /// The file cannot be written.
    pub fn set_off_by(&self, seconds: i64) {
        // Replaced at once: a reader never finds half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{seconds:+}\n")).expect("write the clock's file");
        std::fs::rename(&new, &self.file).expect("replace the clock's file");
    }

    /// Returns the environment variables of a process that is to go by it.
    ///
    /// # Panics
    /// libfaketime is not installed.
    #[must_use]
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let library = libfaketime().expect("libfaketime is installed: `cargo xtask test` does it");
        vec![
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.display().to_string()),
            ("FAKETIME_CACHE_DURATION", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ]
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

//! Metrics of the process, under the names that Prometheus gives them everywhere.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use super::Metrics;

/// Metrics of the process.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) resident_bytes: Gauge,
    pub(super) cpu_seconds: Counter<f64, AtomicU64>,
    /// Processor time that was counted already.
    counted: Mutex<f64>,
    pub(super) open_fds: Gauge,
    pub(super) max_fds: Gauge,
    pub(super) started_at: Gauge<f64, AtomicU64>,
}

/// State of the process, as the system tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reading {
    resident_bytes: i64,
    cpu_seconds: f64,
    open_fds: i64,
    max_fds: i64,
    started_at: f64,
}

impl Metrics {
    /// Sets the metrics of the process, before each scrape.
    pub(crate) fn process(&self) {
        let Some(reading) = read() else { return };
        let process = &self.process;
        process.resident_bytes.set(reading.resident_bytes);
        process.open_fds.set(reading.open_fds);
        process.max_fds.set(reading.max_fds);
        process.started_at.set(reading.started_at);
        let mut counted = process.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.cpu_seconds > *counted {
            process.cpu_seconds.inc_by(reading.cpu_seconds - *counted);
            *counted = reading.cpu_seconds;
        }
    }
}

/// Reads the state of the process; `None` where the system does not tell it.
#[cfg(target_os = "linux")]
fn read() -> Option<Reading> {
    use std::fs::{read_dir, read_to_string};

    use rustix::param::{clock_ticks_per_second, page_size};
    use rustix::process::{Resource, getrlimit};

    let stat = read_to_string("/proc/self/stat").ok()?;
    let [ticks, start_ticks, pages] = fields(&stat)?;
    let boot = read_to_string("/proc/stat").ok()?;
    let booted_at: f64 =
        boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred a second")]
    let per_second = clock_ticks_per_second() as f64;
    let limit = getrlimit(Resource::Nofile).current;
    Some(Reading {
        resident_bytes: i64::try_from(page_size()).ok()?.saturating_mul(i64::try_from(pages).ok()?),
        cpu_seconds: seconds(ticks, per_second),
        // The folder itself is open while it is read.
        open_fds: i64::try_from(read_dir("/proc/self/fd").ok()?.count()).ok()?.saturating_sub(1),
        max_fds: limit.map_or(i64::MAX, |limit| i64::try_from(limit).unwrap_or(i64::MAX)),
        started_at: booted_at + seconds(start_ticks, per_second),
    })
}

#[cfg(not(target_os = "linux"))]
fn read() -> Option<Reading> {
    None
}

#[cfg(any(target_os = "linux", test))]
#[expect(clippy::cast_precision_loss, reason = "below 2^52 for a million years")]
fn seconds(ticks: u64, per_second: f64) -> f64 {
    ticks as f64 / per_second
}

/// Takes the processor time, the start and the resident pages from a line of `/proc/PID/stat`. The program's
/// name stands in it in brackets, and may have spaces and brackets itself.
#[cfg(any(target_os = "linux", test))]
fn fields(stat: &str) -> Option<[u64; 3]> {
    let (_, rest) = stat.rsplit_once(')')?;
    // The third field of proc(5) is the first one here.
    let field = |number: usize| rest.split_whitespace().nth(number - 3)?.parse::<u64>().ok();
    Some([field(14)? + field(15)?, field(22)?, field(24)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_process_are_found_behind_its_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194560 900 0 3 0 150 50 0 0 20 0 9 0 12345 99 2048 18446744073709551615 1";
        assert_eq!(fields(stat), Some([200, 12345, 2048]));
        assert_eq!(fields("7 (a) S 1"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_process_tells_its_own_state() {
        let metrics = Metrics::default();
        let held = std::fs::File::open("/proc/self/stat").expect("a file");
        let before = read().expect("a reading");
        metrics.process();
        metrics.process();
        drop(held);
        let text = metrics.encode();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} in {text}"))
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(
            value("process_open_fds") >= 4.0
                && value("process_open_fds") < value("process_max_fds")
        );
        assert!(value("process_cpu_seconds_total") >= before.cpu_seconds, "counted once");
        assert!(value("process_cpu_seconds_total") < before.cpu_seconds + 60.0, "counted once");
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        let age = now.expect("a time").as_secs_f64() - value("process_start_time_seconds");
        assert!((-2.0..3600.0 * 24.0).contains(&age), "{age}");
    }
}

//! Memory and processor time of this process.

use anyhow::{Context, Result};

/// Returns the resident memory in MiB, as the operating system counts it.
pub(crate) fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("VmRSS in kB")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}

/// Returns the processor time so far, in hundredths of seconds.
pub(crate) fn processor_ticks() -> Result<u64> {
    ticks_of(&std::fs::read_to_string("/proc/self/stat")?)
}

/// Returns the processor time that a line of `/proc/…/stat` tells, in hundredths of seconds.
pub(crate) fn ticks_of(stat: &str) -> Result<u64> {
    // Behind the name, which may hold anything: the state is the third field.
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let mut times = fields.split_whitespace().skip(11).take(2);
    let mut time = || times.next().and_then(|field| field.parse::<u64>().ok());
    time().zip(time()).map(|(user, system)| user + system).context("two times in ticks")
}

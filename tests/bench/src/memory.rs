//! Memory of this process.

use anyhow::{Context, Result};

/// Returns the resident memory in MiB, as the operating system counts it.
pub(crate) fn resident_mib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")).context("VmRSS in kB")?;
    Ok(kib.trim().parse::<u64>()? / 1024)
}

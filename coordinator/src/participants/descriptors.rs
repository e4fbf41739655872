//! File descriptors of the process: how many there may be, and how many of them connections to
//! participants may take.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are kept back for accepting callers, for the database and for files.
const KEPT_BACK: u64 = 512;

/// Most descriptors that are asked for. More are of no use, and some systems have no limit at all.
const WANTED: u64 = 65_536;

/// Raises the limit of the process as far as the system allows.
fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(WANTED).min(WANTED);
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(from = current, to = wanted, "the descriptor limit was raised"),
        Err(error) => tracing::warn!(
            %error, limit = current, wanted,
            "the limit of open files could not be raised; connections to participants are limited by it"
        ),
    }
}

/// Raises the limit of the process, and returns the most descriptors that connections to participants may
/// take.
pub(crate) fn for_participants() -> usize {
    raise();
    share(getrlimit(Resource::Nofile).current.unwrap_or(WANTED))
}

/// Half of them, where there are few.
fn share(limit: u64) -> usize {
    usize::try_from(limit - KEPT_BACK.min(limit / 2)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_descriptors_are_kept_back() {
        for (limit, share_of_it) in [(65_536, 65_024), (1024, 512), (256, 128), (2, 1)] {
            assert_eq!(share(limit), share_of_it, "of {limit}");
        }
    }
}

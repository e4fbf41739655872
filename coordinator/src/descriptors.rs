//! File descriptors of the process: how many there may be, and who may take how many of them.
//!
//! Connections of callers, connections to participants, and what the coordinator itself needs (its database, files and
//! webhooks) each have a part. Without one of their own, callers that do nothing could take them all, and the next
//! connection to the database would not be had.

mod accepting;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub(crate) use self::accepting::Accepting;

/// Descriptors that are kept back beside the database's: runtime, log, listeners, files, webhooks, a collector of traces.
const KEPT_BACK: usize = 128;

/// The same, where there are few: 24 are in use at rest.
const KEPT_BACK_LEAST: usize = 48;

/// Connections to participants past which callers may take more than half of the rest.
const PARTICIPANTS_ENOUGH: usize = 16_384;

/// Descriptors that are asked for at least. Some systems have no limit at all.
const WANTED: usize = 65_536;

/// Descriptors that a listener's connections may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Connections.
    pub(crate) connections: usize,
    /// More connections, for calls of operators alone.
    pub(crate) reserved: usize,
    /// Connections before the end of their TLS handshake.
    pub(crate) handshakes: usize,
}

impl Room {
    fn all(self) -> usize {
        self.connections.saturating_add(self.reserved).saturating_add(self.handshakes)
    }

    /// Returns as much of it as so many descriptors are enough for; one connection at least.
    fn within(self, max: usize) -> Self {
        if self.all() <= max {
            return self;
        }
        let handshakes = self.handshakes.min(max / 4);
        let reserved = self.reserved.min(max / 8);
        let left = max.saturating_sub(handshakes + reserved);
        let connections = self.connections.min(left).max(1);
        Self { connections, reserved, handshakes }
    }
}

/// Descriptors of each listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Callers {
    /// gRPC.
    pub(crate) grpc: Room,
    /// Health and metrics.
    pub(crate) admin: Room,
    /// The API over HTTP, at an address of its own.
    pub(crate) http: Room,
}

impl Callers {
    fn all(self) -> usize {
        [self.grpc, self.admin, self.http].map(Room::all).into_iter().fold(0, usize::saturating_add)
    }

    fn within(self, max: usize) -> Self {
        if self.all() <= max {
            return self;
        }
        let admin = self.admin.within(max / 8);
        let left = max.saturating_sub(admin.all());
        let of_http = if self.http.all() == 0 { 0 } else { left / 2 };
        let http = if of_http == 0 { Room::default() } else { self.http.within(of_http) };
        Self { grpc: self.grpc.within(left - of_http), admin, http }
    }
}

/// Parts of the descriptors of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parts {
    /// All of them.
    pub(crate) limit: usize,
    /// Those that are kept back for the database, files and what else the coordinator needs.
    pub(crate) kept_back: usize,
    /// Those of connections to participants.
    pub(crate) participants: usize,
    /// Those of callers.
    pub(crate) callers: Callers,
}

impl Parts {
    /// Divides so many descriptors between callers that want these, participants, and a database with so many connections.
    fn of(limit: usize, wanted: Callers, database: usize) -> Self {
        let kept = KEPT_BACK.saturating_add(database.saturating_mul(2));
        let kept_back = kept.min((limit / 4).max(KEPT_BACK_LEAST.min(limit / 2)));
        let rest = limit - kept_back;
        let callers = wanted.within((rest / 2).max(rest.saturating_sub(PARTICIPANTS_ENOUGH)));
        let participants = rest.saturating_sub(callers.all()).max(1);
        Self { limit, kept_back, participants, callers }
    }

    /// Raises the limit of the process as far as it is wanted and the system allows, and divides it.
    pub(crate) fn of_process(wanted: Callers, database: usize) -> Self {
        let most = [wanted.all(), database.saturating_mul(2), KEPT_BACK, PARTICIPANTS_ENOUGH];
        raise(most.into_iter().fold(0, usize::saturating_add).max(WANTED));
        let limit = getrlimit(Resource::Nofile).current;
        let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Self::of(limit, wanted, database)
    }

    /// Tells if there are fewer for callers than these want.
    pub(crate) fn tell(&self, wanted: Callers) {
        let Self { limit, kept_back, participants, callers } = *self;
        if callers == wanted {
            return;
        }
        tracing::warn!(
            limit,
            kept_back,
            participants,
            callers = callers.all(),
            grpc_connections = callers.grpc.connections,
            connections_max = wanted.grpc.connections,
            "the limit of open files leaves fewer connections to callers than connections-max; raise it (LimitNOFILE of a \
             unit, ulimits of a container)"
        );
    }
}

/// Raises the limit of the process as far as the system allows.
fn raise(wanted: usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let wanted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if current.is_none_or(|current| current >= wanted) {
        return;
    }
    let raised = Rlimit { current: Some(wanted), maximum };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => tracing::debug!(from = current, to = wanted, "the descriptor limit was raised"),
        // A limit that is too low is told with the numbers.
        Err(error) => {
            tracing::debug!(%error, limit = current, wanted, "the descriptor limit was not raised");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(connections: usize, handshakes: usize, http: bool) -> Callers {
        let of = |connections, reserved| Room { connections, reserved, handshakes };
        let http = if http { of(connections, 0) } else { Room::default() };
        Callers { grpc: of(connections, 32), admin: of(128, 0), http }
    }

    #[test]
    fn l5_everybody_has_a_part_of_the_descriptors() {
        let all =
            [wanted(4096, 0, false), wanted(4096, 1024, true), wanted(usize::MAX, 1024, true)];
        for wanted in all {
            for limit in [64, 128, 256, 1024, 4096, 65_536, 1 << 20] {
                let parts = Parts::of(limit, wanted, 8);
                let sum = parts.kept_back + parts.participants + parts.callers.all();
                assert!(sum <= limit, "{parts:?}");
                assert!(parts.kept_back >= 32, "{parts:?}");
                assert!(parts.participants >= 16, "{parts:?}");
                assert!(parts.callers.grpc.connections >= 4, "{parts:?}");
                assert!(parts.callers.admin.connections >= 1, "{parts:?}");
            }
        }
    }

    #[test]
    fn callers_have_what_is_configured_where_there_are_enough() {
        for wanted in [wanted(4096, 0, false), wanted(4096, 1024, true), wanted(40_000, 0, false)] {
            assert_eq!(Parts::of(65_536, wanted, 8).callers, wanted);
        }
        let parts = Parts::of(256, wanted(4096, 0, false), 8);
        let grpc = Room { connections: 74, reserved: 10, handshakes: 0 };
        assert_eq!((parts.kept_back, parts.participants, parts.callers.grpc), (64, 96, grpc));
    }
}

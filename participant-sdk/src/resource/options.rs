//! Options of the databases that a participant connects to over the network.

use std::time::Duration;

/// Longest wait for a connection. An operation has a slot, and there are as many slots as
/// connections: so it waits only for a database that is away.
pub(crate) const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes the type of a database's options. Each names in its documentation the server's own settings.
macro_rules! options {
    (
        $name:ident,
        lock: $lock:literal,
        statement: $statement:literal,
        idle: $idle:literal,
        own: { $($own:ident: $kind:ty),* },
    ) => {
        /// Options of a participant's connections to its database.
        #[derive(Clone, Debug)]
        pub struct $name {
            prepare_connections: u32,
            phase_two_connections: u32,
            lock_timeout: std::time::Duration,
            statement_timeout: std::time::Duration,
            idle_timeout: std::time::Duration,
            $($own: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    prepare_connections: 16,
                    phase_two_connections: 16,
                    lock_timeout: std::time::Duration::from_secs(2),
                    statement_timeout: std::time::Duration::from_secs(30),
                    idle_timeout: std::time::Duration::from_secs(60),
                    $($own: <$kind>::default(),)*
                }
            }
        }

        impl $name {
            /// Connections for phase one, and so Prepares at once. Default 16.
            #[must_use]
            pub fn prepare_connections(mut self, connections: u32) -> Self {
                self.prepare_connections = connections.max(1);
                self
            }

            /// Connections for phase two, and so Commits and Cancels at once. Never used for phase
            /// one, which may wait for locks that only phase two frees. Default 16.
            #[must_use]
            pub fn phase_two_connections(mut self, connections: u32) -> Self {
                self.phase_two_connections = connections.max(1);
                self
            }

            /// Longest wait of a statement for a lock
            #[doc = concat!($lock, ".")]
            /// An operation that meets another one of its branch for longer answers that it is still
            /// working. Default 2 s.
            #[must_use]
            pub fn lock_timeout(mut self, timeout: std::time::Duration) -> Self {
                self.lock_timeout = timeout;
                self
            }

            /// Longest time of a handler's statement
            #[doc = concat!($statement, ".")]
            /// Default 30 s.
            #[must_use]
            pub fn statement_timeout(mut self, timeout: std::time::Duration) -> Self {
                self.statement_timeout = timeout;
                self
            }

            /// Longest time for which a handler may do something else than the database's work before
            /// its local transaction is ended
            #[doc = concat!($idle, ".")]
            /// Default 60 s.
            #[must_use]
            pub fn idle_timeout(mut self, timeout: std::time::Duration) -> Self {
                self.idle_timeout = timeout;
                self
            }

            fn slots(&self) -> $crate::resource::Slots {
                $crate::resource::Slots {
                    prepare: self.prepare_connections as usize,
                    phase_two: self.phase_two_connections as usize,
                }
            }
        }
    };
}
pub(crate) use options;

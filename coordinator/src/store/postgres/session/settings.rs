//! Settings of a session.

use std::time::Duration;

/// Names and values.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) names: Vec<String>,
    pub(super) values: Vec<String>,
    /// Numbers of those at the beginning that are relied on, and not only wished for.
    pub(super) relied_on: usize,
}

impl Settings {
    pub(super) fn of(
        statement_timeout: Duration,
        lock_timeout: Duration,
        schema: Option<&str>,
    ) -> Self {
        let ms = |duration: Duration| duration.as_millis().to_string();
        let relied_on = [
            ("synchronous_commit", "on".to_owned()),
            ("default_transaction_isolation", "read committed".to_owned()),
            ("statement_timeout", ms(statement_timeout)),
            ("lock_timeout", ms(lock_timeout)),
            // No statement of ours leaves a transaction open; should one ever, it must not hold locks.
            ("idle_in_transaction_session_timeout", ms(statement_timeout)),
            // Statements join arrays of a few hundred keys with tables of millions of rows. The planner
            // does not know that and must not scan a table while its statistics are young.
            ("enable_seqscan", "off".to_owned()),
            // With that, a plan that cannot do without a scan has a cost above the limit for compiling,
            // and is compiled each time: milliseconds for a statement of a fraction of one.
            ("jit", "off".to_owned()),
            // Where an index has the order and a few are wanted, all that is in the range must not be read and sorted.
            ("enable_bitmapscan", "off".to_owned()),
            // To weigh a merge join the planner reads both ends of an index, past all that was purged there since it was
            // cleaned last: milliseconds for each statement that is planned anew. No statement of ours needs one.
            ("enable_mergejoin", "off".to_owned()),
        ];
        // A coordinator that vanished must not leave its locks behind for hours. A Unix socket has none. Of a range
        // whose ends are not known the planner takes a part of the table, and would start workers, which take longer
        // than the statement.
        //
        // Where a role's sessions may be idle, or in a transaction, for some seconds only, the journal's connection would be
        // ended in each pause: nobody knows then what has become of the next batch. The first is known from PostgreSQL 14 on,
        // the second from 17 on.
        let wished_for = [
            ("idle_session_timeout", "0".to_owned()),
            ("transaction_timeout", "0".to_owned()),
            ("max_parallel_workers_per_gather", "0".to_owned()),
            ("tcp_keepalives_idle", "10".to_owned()),
            ("tcp_keepalives_interval", "5".to_owned()),
            ("tcp_keepalives_count", "3".to_owned()),
        ];
        // Nobody else's table is ever met.
        let path = schema.map(|schema| ("search_path", schema.to_owned()));
        let count = relied_on.len() + usize::from(path.is_some());
        let all = path.into_iter().chain(relied_on).chain(wished_for);
        let (names, values) = all.map(|(name, value)| (name.to_owned(), value)).unzip();
        Self { names, values, relied_on: count }
    }

    /// Returns those of a session that plans each statement once.
    pub(super) fn with_generic_plans(&self) -> Self {
        let mut with = self.clone();
        with.names.push("plan_cache_mode".to_owned());
        with.values.push("force_generic_plan".to_owned());
        with
    }
}

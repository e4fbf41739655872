//! Table of all metrics, from which the registry and docs/reference/metrics.md are made.

/// Documentation of a metric.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Name, as `/metrics` prints it.
    pub name: &'static str,
    /// Type: `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Labels, separated by commas.
    pub labels: &'static str,
    /// Meaning, with the unit.
    pub help: &'static str,
    /// Condition for an alert; empty if there should be none.
    pub alert: &'static str,
}

macro_rules! table {
    ($($name:ident: $kind:literal [$labels:literal] $help:literal, alert $alert:literal;)*) => {
        /// Documentation of every metric.
        pub const TABLE: &[Described] = &[$(Described {
            name: stringify!($name),
            kind: $kind,
            labels: $labels,
            help: $help,
            alert: $alert,
        },)*];
    };
}

table! {
    unanimo_transactions_begun_total: "counter" ["mode"]
        "Transactions begun",
        alert "";
    unanimo_rolled_back_unseen_total: "counter" [""]
        "Rollbacks of a gid that was never seen: each leaves an aborted tombstone",
        alert "";
    unanimo_transactions_decided_total: "counter" ["mode, outcome"]
        "Transactions decided",
        alert "the share of `aborted` is far above its usual level";
    unanimo_decision_seconds: "histogram" [""]
        "Time from begin to decision, in seconds",
        alert "p99 is far above its usual level";
    unanimo_transactions_live: "gauge" [""]
        "Transactions in memory: begun or adopted, and not ended",
        alert "above 80 % of `transactions-max`";
    unanimo_transactions_open: "gauge" ["mode, state"]
        "Transactions in memory by mode and state; the mode `none` is a rollback of a gid that was never seen. What sleeps for longer than an hour, or waits for a participant that fails, may not be in memory",
        alert "";
    unanimo_oldest_undecided_seconds: "gauge" [""]
        "Age of the oldest transaction that has started and is not decided; 0 without any",
        alert "above an hour, or above the longest deadline that is in use";
    unanimo_oldest_owed_seconds: "gauge" [""]
        "Time since the decision of the transaction that has waited longest for a participant to answer its Commit or Cancel, among those in memory; 0 without any",
        alert "above `stalled-after`";
    unanimo_live_bytes: "gauge" [""]
        "Bytes of payloads, outputs, metadata and texts that live transactions hold",
        alert "above 80 % of `live-bytes-max`";
    unanimo_transactions_set_aside: "gauge" [""]
        "Transactions in memory that hold no place of `transactions-max`, because they wait for nothing but calls that fail",
        alert "above 0 for five minutes";
    unanimo_alarms: "gauge" ["alarm"]
        "Transactions that need an operator, by reason: `transaction_stalled` (all that are held up), of those `pivot_unanswered`, `refused_after_commit` and `output_too_large`, then `heuristic_outcome`, `transaction_unreadable`; and participants with the alarm `clock_skew`, and one more while the coordinator's own clocks disagree; `files_not_used` counts what is made of files that have changed and cannot be used: TLS of the servers, TLS to participants, their tokens, identities, keys of issuers, webhooks, what a collector of spans needs; `keys_not_fetched` is 1 while those of an issuer cannot be fetched, `quotas_not_counted` while what sleeps cannot be counted",
        alert "above 0: `unanimo tx list --attention` lists transactions, the log names participants";
    unanimo_participants_failing: "gauge" [""]
        "Participants whose last calls have all failed: new work for them is refused",
        alert "above 0 for a minute";
    unanimo_participant_calls_waiting: "gauge" ["participant"]
        "Calls that wait until a participant answers again, or for their turn after that; for 64 participants, with the others together as `(other)`",
        alert "";
    unanimo_participant_transactions_parked: "gauge" ["participant"]
        "Transactions out of memory that wait until a participant answers again, counted up to 20,000; for 64 participants, with the others together as `(other)`. Some of each participant are in memory besides",
        alert "";
    unanimo_admission_refused_total: "counter" ["reason"]
        "Requests for new work that were refused, by reason",
        alert "`overloaded` grows for a minute";
    unanimo_participant_calls_total: "counter" ["participant, operation, result"]
        "Calls to participants that have ended; `failed` ones are repeated. 200 participants are told apart, and each namespace has a part of these; the others are `(other)`. One without a call for ten minutes leaves its place to another one, and its series end",
        alert "the share of `failed` of one participant is above 10 % for five minutes";
    unanimo_participant_call_seconds: "histogram" ["operation"]
        "Duration of calls to participants, in seconds",
        alert "";
    unanimo_participant_answer_seconds: "histogram" ["participant"]
        "Duration of calls to one participant, in seconds. 200 participants are told apart, and each namespace has a part of these; the others are `(other)`. One without a call for ten minutes leaves its place to another one, and its series end",
        alert "";
    unanimo_requests_total: "counter" ["method, code"]
        "gRPC requests served, by method and status code",
        alert "the share of `Internal` or `Unavailable` is above 1 % for five minutes";
    unanimo_connections: "gauge" [""]
        "Connections of callers over gRPC",
        alert "above 80 % of `connections-max`";
    unanimo_connections_refused_total: "counter" [""]
        "Connections of callers that were closed at once, because there were `connections-max` of them",
        alert "grows for a minute";
    unanimo_unread_bytes: "gauge" [""]
        "Bytes of answers that were handed over and that their callers have not read yet",
        alert "above 80 % of `live-bytes-max`";
    unanimo_answers_refused_total: "counter" [""]
        "Answers that were replaced by `UNAVAILABLE` (`ANSWER_NOT_SENT`), because callers had not read as much as `live-bytes-max`",
        alert "grows for a minute";
    unanimo_calls_limited_total: "counter" [""]
        "Calls that were refused because their identity, its namespace or, without one, their address called too often (`identity-rate`, `namespace-rate`, `address-rate`) or had too many under way (`identity-calls`, `namespace-calls`, `address-calls`), or because their identity had as many under way over HTTP as others leave it; the log names it once a minute",
        alert "";
    unanimo_audit_failed_total: "counter" [""]
        "Writes of the audit that failed: an operator's act was refused for it, or what was denied or has changed is written later",
        alert "it grows";
    unanimo_spans_dropped_total: "counter" [""]
        "Spans that the collector at `otlp-endpoint` did not take in time, or refused; transactions do not wait for it",
        alert "grows for five minutes: the log names the cause";
    unanimo_journal_flush_seconds: "histogram" [""]
        "Time to make a batch durable, in seconds",
        alert "p99 above 1 s: the database is slow";
    unanimo_journal_batch_rows: "histogram" [""]
        "Transactions in a batch",
        alert "";
    unanimo_journal_backlog: "gauge" [""]
        "Transactions with transitions that are not written yet",
        alert "grows for a minute";
    unanimo_journal_connected: "gauge" [""]
        "1 while the journal's connection to the database works, otherwise 0",
        alert "0 for a minute";
    unanimo_lease_held: "gauge" [""]
        "1 while this incarnation holds its lease and may decide and send, otherwise 0",
        alert "0 for a minute";
    unanimo_sqlite_log_bytes: "gauge" [""]
        "Size of the write-ahead log of the SQLite file; 0 on PostgreSQL. Usually some megabytes: it grows for as long as a reader, such as a shell or a backup, holds a transaction open, or it cannot be copied into the file",
        alert "above 256 MiB: the log names the cause";
    unanimo_adopted_total: "counter" [""]
        "Transactions adopted from earlier incarnations",
        alert "";
    unanimo_purged_total: "counter" ["what"]
        "Transactions purged, by part: first their `details`, later their `gids`",
        alert "";
    unanimo_last_purge_timestamp_seconds: "gauge" [""]
        "Time of the last purge that did not fail, in seconds since 1970; 0 before the first one",
        alert "an hour ago: the log names the cause";
    unanimo_events_total: "counter" ["kind"]
        "Events of transactions that were added to the feed, by kind",
        alert "";
    unanimo_events_lag_seconds: "gauge" [""]
        "Time for which the feed of events has lacked something that is written, in seconds; 0 while it lacks nothing",
        alert "above 60: the log names the cause";
    unanimo_webhook_delivered_total: "counter" ["webhook"]
        "Events that the receiver of a webhook has taken, dead letters that were sent again included",
        alert "";
    unanimo_webhook_failed_total: "counter" ["webhook"]
        "Attempts to send an event to a webhook that failed; the event is sent again",
        alert "";
    unanimo_webhook_given_up_total: "counter" ["webhook"]
        "Events that a receiver did not take within `give-up-after`; each also logs the alarm `webhook_dead_letters`",
        alert "it grows";
    unanimo_webhook_missed_total: "counter" ["webhook"]
        "Gaps in what a webhook was sent, because events were purged before; each also logs the alarm `webhook_missed`",
        alert "it grows";
    unanimo_webhook_lag_seconds: "gauge" ["webhook"]
        "Age of the event that a webhook is sent next, in seconds; 0 if there is none",
        alert "above ten minutes";
    unanimo_webhook_failing_seconds: "gauge" ["webhook"]
        "Time for which the receiver of a webhook has taken nothing, in seconds; 0 if the last attempt succeeded",
        alert "above 60: the log names the cause";
    unanimo_webhook_stopped: "gauge" ["webhook"]
        "1 if the receiver of a webhook has answered 410 Gone, and is sent nothing, otherwise 0",
        alert "1";
    unanimo_webhook_dead_letters: "gauge" ["webhook"]
        "Dead letters of a webhook that are kept",
        alert "above 0: look at them, and have them sent again";
    unanimo_write_refused_total: "counter" [""]
        "Transactions whose row the database refused; each also logs the alarm `write_refused`",
        alert "above 0";
    unanimo_damaged_ranges: "gauge" [""]
        "Places of damage in the log of which not even the names of their transactions are known, so that none of them can be set aside: milliseconds of begins on PostgreSQL, runs of rows on SQLite; each also logs the alarm `transaction_unreadable`",
        alert "above 0: restore a backup";
    unanimo_build_info: "gauge" ["version"]
        "Always 1; the label is the version of the program",
        alert "";
    process_resident_memory_bytes: "gauge" [""]
        "Memory of the process, in bytes. This and the following ones are of Linux only, and 0 elsewhere",
        alert "";
    process_cpu_seconds_total: "counter" [""]
        "Processor time of the process, in seconds",
        alert "";
    process_open_fds: "gauge" [""]
        "Open file descriptors of the process: files, connections of callers, participants and the database",
        alert "above 80 % of `process_max_fds`";
    process_max_fds: "gauge" [""]
        "Most file descriptors that the process may have",
        alert "";
    process_start_time_seconds: "gauge" [""]
        "Start of the process, in seconds since 1970",
        alert "changes: the process was started again";
}

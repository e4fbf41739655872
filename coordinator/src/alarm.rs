//! Alarms: log lines of level ERROR with the field `alarm`, whose values are stable names. Each
//! needs an operator; docs/reference/metrics.md is made from [`TABLE`].

/// Name of the alarm: phase two of a transaction takes too long.
pub const TRANSACTION_STALLED: &str = "transaction_stalled";

/// Name of the alarm: a branch ended by its participant's own decision, or by an operator's.
pub const HEURISTIC_OUTCOME: &str = "heuristic_outcome";

/// Name of the alarm: a step after the pivot of a saga was refused.
pub const REFUSED_AFTER_COMMIT: &str = "refused_after_commit";

/// Name of the alarm: the output of the pivot, or of a step after it, is too large for the step that reads it.
pub const OUTPUT_TOO_LARGE: &str = "output_too_large";

/// Name of the alarm: the pivot of a saga has no answer.
pub const PIVOT_UNANSWERED: &str = "pivot_unanswered";

/// Name of the alarm: a participant's clock is ahead of the coordinator's.
pub const CLOCK_SKEW: &str = "clock_skew";

/// Name of the alarm: the database refused a row.
pub const WRITE_REFUSED: &str = "write_refused";

/// Name of the alarm: the database lacks what it had acknowledged.
pub const DATABASE_WENT_BACK: &str = "database_went_back";

/// Name of the alarm: a stored transaction cannot be read.
pub const TRANSACTION_UNREADABLE: &str = "transaction_unreadable";

/// Name of the alarm: a participant's processes have more than one database.
pub const PARTICIPANT_OTHER_DATABASE: &str = "participant_other_database";

/// Name of the alarm: files of certificates, keys, identities or tokens have changed, and cannot be used.
pub const FILES_NOT_USED: &str = "files_not_used";

/// Name of the alarm: the keys of the issuer of tokens cannot be fetched.
pub const KEYS_NOT_FETCHED: &str = "keys_not_fetched";

/// Name of the alarm: transactions that sleep cannot be counted for the quotas.
pub const QUOTAS_NOT_COUNTED: &str = "quotas_not_counted";

/// Name of the alarm: the audit is not as it was written.
pub const AUDIT_TAMPERED: &str = "audit_tampered";

/// Name of the alarm: the feed of events is behind.
pub const EVENTS_BEHIND: &str = "events_behind";

/// Name of the alarm: the receiver of a webhook takes no events.
pub const WEBHOOK_FAILING: &str = "webhook_failing";

/// Name of the alarm: a webhook has dead letters.
pub const WEBHOOK_DEAD_LETTERS: &str = "webhook_dead_letters";

/// Name of the alarm: the receiver of a webhook has said that it is gone.
pub const WEBHOOK_STOPPED: &str = "webhook_stopped";

/// Name of the alarm: a webhook may not have been sent all events.
pub const WEBHOOK_MISSED: &str = "webhook_missed";

/// Documentation of an alarm.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// Condition that raises it.
    pub raised: &'static str,
    /// Action for the operator.
    pub act: &'static str,
    /// The event that clears it.
    pub cleared: &'static str,
}

/// Documentation of every alarm.
pub const TABLE: &[Described] = &[
    Described {
        name: TRANSACTION_STALLED,
        raised: "Phase two of a transaction lasts longer than `stalled-after`: a branch has not \
                 ended. The coordinator repeats the calls. A participant has one line in the log, with \
                 its first transaction, and another one each minute in which `transactions`, their \
                 number, has grown.",
        act: "`unanimo tx show` prints the participant's last error. Repair the participant; then \
              `unanimo tx retry` sends the calls at once. If the participant will never answer, use \
              `unanimo tx resolve`.",
        cleared: "the transaction's end",
    },
    Described {
        name: HEURISTIC_OUTCOME,
        raised: "A participant or an operator reported that a branch ended against the decision, \
                 or that nobody can tell how it ended. A participant has one line in the log, with its first \
                 branch, and another one each minute in which `transactions`, their number, has grown; an operator's \
                 act has a line of its own.",
        act: "Compare the data of the participants and repair it by hand. The decision does not \
              change.",
        cleared: "`unanimo tx forget`",
    },
    Described {
        name: REFUSED_AFTER_COMMIT,
        raised: "A participant refused a step of a saga that comes after the pivot. The saga is \
                 committed and only goes forward, so that the refusal is not stored; the coordinator \
                 repeats the call.",
        act: "Repair what the participant's refusal names; then `unanimo tx retry` sends the step at \
              once. If the participant will never do it, use `unanimo tx resolve`.",
        cleared: "the transaction's end",
    },
    Described {
        name: OUTPUT_TOO_LARGE,
        raised: "The pivot of a saga, or a step after it, returned an output that is larger than the \
                 participant was told, and another step reads it. That is no vote; the coordinator \
                 repeats the call.",
        act: "Repair the participant: its output must be smaller, or a key of it instead. If it has stored \
              its answer and cannot, use `unanimo tx resolve --as committed --output JSON`, with the output that \
              the other step is to read.",
        cleared: "the transaction's end; of a pivot, its answer",
    },
    Described {
        name: PIVOT_UNANSWERED,
        raised: "The pivot of a saga was sent, and has no answer for longer than `stalled-after` past \
                 the saga's deadline. Only its answer decides; the coordinator repeats the call.",
        act: "`unanimo tx show` prints the participant's last error. Repair the participant; then \
              `unanimo tx retry` sends the call at once. If it will never answer, find out whether its work \
              is done, and answer in its place with `unanimo tx resolve`: see [sagas](../sagas.md#the-pivot).",
        cleared: "the decision",
    },
    Described {
        name: CLOCK_SKEW,
        raised: "A participant refused a Prepare as TOO_LATE before the transaction's deadline: the clock \
                 of the participant, or of its database, is ahead by more than `clock-skew`. \
                 `coordinator_time` in the line is the time here, and the participant's is past \
                 `participant_time_past`. All of its transactions are aborted so. Of branches that others call (`EnlistBranch`, \
                 propagation) the coordinator hears no refusal: there the initiator is told TOO_LATE. Or the clocks \
                 of the coordinator and of its database differ by more than a minute, or were set by more \
                 than that: the line has both times, and nothing is purged meanwhile, because a wrong clock \
                 would delete what is kept for days. The same is told, for an hour, by a start that is more \
                 than a seventh of `gid-retention` after the last purge: nobody ran, or the clocks are ahead, and \
                 then what is old by them is purged. And by a start whose clock and that of its database \
                 differ by more than a minute: what is stored goes by the earlier one, for ten minutes, and \
                 what is adopted meanwhile for as long as it is in memory.",
        act: "Set the clock that is wrong, and see that a time server keeps it right.",
        cleared: "ten minutes without such a refusal; clocks that agree, and clocks that were set after an \
                  hour in which they ran evenly",
    },
    Described {
        name: WRITE_REFUSED,
        raised: "The database refuses to store a change of a transaction. Either the request has failed, and the \
                 transaction leaves memory: the next search for what is open brings it back, or sets it aside if it \
                 cannot be read. Or the line says that the row is sent again: it may have been stored before, or \
                 nothing shows that it is the row's own fault. Then the transaction stays in memory and waits, and so \
                 does whoever waits for it; it is told nothing until the database takes the row.",
        act: "Read the error in the log line. If it tells of a page or a checksum, the disk has damaged the \
              database: [restore a backup](../backup.md#one-damaged-transaction). If you have changed the schema, \
              or have added a constraint or a trigger, take that back: a row that waits is then stored by itself. \
              Otherwise it is a fault of the coordinator: report it.",
        cleared: "nothing; it is told once for each transaction. `unanimo_journal_backlog` counts those that wait",
    },
    Described {
        name: DATABASE_WENT_BACK,
        raised: "The database lacks what it had acknowledged: a standby was promoted that was behind, or a \
                 backup was restored under the running coordinator. Transactions in memory are written again as they \
                 were; each has a line with the level WARN. Others that have changed in the meantime are as they were \
                 before.",
        act: "Read [what a failover loses](../backup.md#what-a-failover-loses). Use synchronous replication, so that it \
              does not happen again.",
        cleared: "nothing; it is told once a minute while rows are found that went back",
    },
    Described {
        name: TRANSACTION_UNREADABLE,
        raised: "The rows of a transaction make no sense to this version of the coordinator: a later \
                 version wrote them, or they are damaged, or the database itself cannot read them, or nothing \
                 is stored but its gid. The transaction is set aside, and all others go on; the purge leaves it, \
                 and its gid begins nothing else.",
        act: "The log line names the column, and so does `unanimo tx show`. Start the version that wrote \
              it, or [repair the rows](../backup.md#one-damaged-transaction); then `unanimo tx show` makes the \
              coordinator read them again.",
        cleared: "the next time that it can be read",
    },
    Described {
        name: PARTICIPANT_OTHER_DATABASE,
        raised: "A process of a participant registers, or votes, with another database than the processes of \
                 its name that are alive, or registers with a copy of theirs in another place. It is refused: each would hold a part of the work for the whole. \
                 A registration that is refused is told once a process with the known database has registered since: one that \
                 has died counts as alive for a while, and its next life is no mistake. A \
                 participant has one line in a minute, with `refused`, their number.",
        act: "Stop the process that is wrong; see [one name, one \
              database](../in-doubt.md#one-name-one-database). If the participant was given a new database on \
              purpose, it is taken once no process with the former one was seen for three of the intervals in \
              which participants register, 15 s by default.",
        cleared: "nothing; it is told for as long as it goes on",
    },
    Described {
        name: FILES_NOT_USED,
        raised: "A file of certificates, of a key, of authorities, of identities, of tokens, of webhooks or of a collector's \
                 headers has changed, and cannot be used: it is missing or malformed, breaks a rule, a key does not belong to \
                 its certificate, or a new certificate has expired or is not valid yet. The former content is used: \
                 certificates until they expire, and a token or an identity that was taken out of the file is still known.",
        act: "The log line names the file and the rule. Repair the file at once where something was revoked; it is \
              read again within a second.",
        cleared: "files that can be used",
    },
    Described {
        name: KEYS_NOT_FETCHED,
        raised: "The keys of the issuer of tokens, at the address in `jwt-keys`, could not be fetched twice in a row, or are \
                 not there. The former keys are used until they are as old as `jwt-keys-age-max`; without keys that count, \
                 the issuer's tokens are refused with `ISSUER_UNAVAILABLE`. Other callers are served as ever.",
        act: "The log line names the address and what was wrong with the answer. See that the coordinator reaches it, and \
              that `jwt-keys-ca` has the authority of its certificate; it is tried again every few seconds.",
        cleared: "keys that were fetched",
    },
    Described {
        name: QUOTAS_NOT_COUNTED,
        raised: "For a minute the transactions that sleep could not be counted, of which the quotas need the \
                 number. After a start nothing new is let in for an identity with a quota until they are; later the last \
                 count stays in use, so that one with a quota may be refused too soon. Nothing that has begun is held up.",
        act: "The log line has the database's error. Repair the database; where new work cannot wait, take the quotas out \
              of the file of identities and of the settings `open-transactions-per-identity`, `open-bytes-per-identity`, \
              `open-transactions-per-namespace` and `open-bytes-per-namespace`.",
        cleared: "a count that succeeds",
    },
    Described {
        name: AUDIT_TAMPERED,
        raised: "The audit is not as it was written: an entry was changed, removed or moved. Nothing of it is purged, so \
                 that it stays as evidence.",
        act: "`unanimo audit verify` tells the first entry that is wrong. Find out who has written into the \
              coordinator's database; keep a copy of it, and the log, in which each entry has a line.",
        cleared: "nothing; it is told once, and again after a purge",
    },
    Described {
        name: EVENTS_BEHIND,
        raised: "For a minute the coordinator has not made [events](../notifications.md) of all that it has written: \
                 those who follow them are told later. Transactions are not delayed.",
        act: "Read the warnings before the line: they name what fails. If they tell of damage in the index `log_news` or in \
              its file (`SELECT pg_relation_filepath('unanimo.log_news')`), make it again with `REINDEX INDEX \
              CONCURRENTLY unanimo.log_news`: nothing is lost by it. If nothing fails, the database is too slow for the load.",
        cleared: "events of all that is written; it is told once a minute until then",
    },
    Described {
        name: WEBHOOK_FAILING,
        raised: "The receiver of a [webhook](../notifications.md#webhooks) has taken no event for a minute. The event is sent \
                 again, and those behind it wait. No other webhook and no transaction waits for it.",
        act: "The log line and `unanimo webhook list` name the cause. Repair the receiver; `unanimo webhook test` shows \
              whether it answers. An event that is not taken for `give-up-after` becomes a dead letter.",
        cleared: "an event that is taken; it is told once a minute until then",
    },
    Described {
        name: WEBHOOK_DEAD_LETTERS,
        raised: "The receiver of a webhook did not take an event for `give-up-after`: it is kept as a dead letter for \
                 `events-retention`, and the next event is sent.",
        act: "`unanimo webhook dead-letters` lists them with their causes. Repair the receiver; then \
              `unanimo webhook redeliver` has them sent again.",
        cleared: "nothing; it is told once for each. `unanimo_webhook_dead_letters` counts those that are kept",
    },
    Described {
        name: WEBHOOK_STOPPED,
        raised: "The receiver of a webhook has answered 410 Gone. It is sent nothing more; its place in the feed is kept.",
        act: "Take the webhook out of the file. If the receiver is back, `unanimo webhook test` sends it a test event, and once \
              it takes that, the webhook goes on at its place; so it does with another `url`.",
        cleared: "a test event that is taken, or another `url`",
    },
    Described {
        name: WEBHOOK_MISSED,
        raised: "Events that a webhook has not been sent are not there any more: they were purged after `events-retention`, \
                 or the database has gone back. The line has the revisions between which they were; how many they \
                 were nobody knows any more. The webhook goes on with the oldest event that is kept.",
        act: "Compare the receiver's data with `unanimo tx list` for that time. Give `events-retention` more time if receivers \
              are away for long.",
        cleared: "nothing; it is told once for each gap",
    },
];

//! Page docs/reference/limits.md.

use unanimo_coordinator::api::limits::{
    FEATURES_MAX, HISTORY_BYTES_MAX, INQUIRE_MAX, INSTANCE_BYTES_MAX, METADATA_MAX, MODES_MAX,
    NOTE_BYTES_MAX, OPERATOR_BYTES_MAX, PAGE_BYTES_MAX, PAGE_DEFAULT, PAGE_MAX, REQUIRES_MAX,
    SDK_BYTES_MAX, STATES_MAX, STREAMS_MAX, STREAMS_OF_ONE_MAX, TIMELINE_BYTES_MAX,
    TIMELINE_ENTRIES_MAX, TRACE_BYTES_MAX,
};
use unanimo_coordinator::config::{CLIENT_BYTES_DEFAULT, Config};
use unanimo_coordinator::participants::allow::ENDPOINT_BYTES_MAX;
use unanimo_coordinator::participants::directory::{
    ENDPOINTS_MAX, INSTANCES_TOTAL_MAX, REGISTRATIONS_BYTES_MAX,
};
use unanimo_core::ids::{ID_BYTES_MAX, NAME_BYTES_MAX, NAMESPACE_BYTES_MAX};
use unanimo_core::{MEDIA_TYPE_BYTES_MAX, TEXT_BYTES_MAX};

use super::markdown::{code, table};

/// Rows of limits that a setting sets: the limit, its setting, and the result of going past it.
const SETTABLE: &[(&str, &str, &str)] = &[
    ("Branches of a transaction", "branches-max", "`FIELD_INVALID`"),
    ("Bytes of one payload", "payload-bytes-max", "`FIELD_INVALID`"),
    ("Bytes of all payloads of a transaction", "payloads-bytes-max", "`FIELD_INVALID`"),
    ("Bytes of one output", "output-bytes-max", "the output is dropped, the vote stands"),
    (
        "Bytes of all outputs of a transaction",
        "outputs-bytes-max",
        "the output is dropped, the vote stands",
    ),
    ("Bytes of a transaction's metadata, keys and values", "metadata-bytes-max", "`FIELD_INVALID`"),
    ("Bytes of a gRPC message", "message-bytes-max", "`OUT_OF_RANGE` by gRPC itself"),
    ("Timeout of a transaction", "timeout-max", "`FIELD_INVALID`"),
    ("Wait of a call without a deadline", "wait-max", "*not decided yet* in an OK reply"),
    ("Transactions in flight on a node", "transactions-max", "`OVERLOADED` for new work"),
    (
        "Bytes of payloads, outputs, metadata and texts in memory on a node",
        "live-bytes-max",
        "`OVERLOADED` for new work",
    ),
    (
        "Bytes of requests on their way in, without the first 64 KiB of each",
        "live-bytes-max",
        "`OVERLOADED`",
    ),
    ("The first 64 KiB of each of these, altogether", "live-bytes-max", "`OVERLOADED`"),
    ("Bytes of answers that callers have not read", "live-bytes-max", "`ANSWER_NOT_SENT`"),
    (
        "Bytes of answers of participants on their way in",
        "live-bytes-max",
        "the participant is asked again",
    ),
    (
        "Calls under way on a node, in bytes of which each takes 16 KiB",
        "live-bytes-max",
        "`OVERLOADED` for new work, and past half of it for GetTransaction that waits and WatchTransaction; Commit and \
         Rollback are answered as soon as they are accepted",
    ),
    (
        "Calls under way at one participant, phase one and phase two apart",
        "participant-slots",
        "calls wait their turn",
    ),
    ("Connections of callers over gRPC", "connections-max", "a new one is closed at once"),
    ("Names of participants that are kept", "participants-max", "`OVERLOADED` for a new name"),
    ("The same in one namespace", "participants-per-namespace", "`OVERLOADED` for a new name"),
    ("Calls of one identity in a second", "identity-rate", "`IDENTITY_LIMITED`"),
    ("Calls of one identity under way", "identity-calls", "`IDENTITY_LIMITED`"),
    ("Calls of one namespace in a second", "namespace-rate", "`NAMESPACE_LIMITED`"),
    ("Calls of one namespace under way", "namespace-calls", "`NAMESPACE_LIMITED`"),
    ("Calls from one address in a second", "address-rate", "`ADDRESS_LIMITED`"),
    ("Calls from one address under way", "address-calls", "`ADDRESS_LIMITED`"),
    (
        "Open transactions of one identity",
        "open-transactions-per-identity",
        "`QUOTA_REACHED` for new work",
    ),
    ("Their bytes", "open-bytes-per-identity", "`QUOTA_REACHED` for new work"),
    (
        "Open transactions of one namespace",
        "open-transactions-per-namespace",
        "`QUOTA_REACHED` for new work",
    ),
    ("Their bytes", "open-bytes-per-namespace", "`QUOTA_REACHED` for new work"),
];

pub(super) fn page() -> String {
    let described = Config::described();
    let default = |key: &str| {
        let setting = described.iter().find(|setting| setting.key == key);
        code(setting.expect("a setting of this name").default.trim_matches('"'))
    };
    let settable = SETTABLE
        .iter()
        .map(|(what, key, past)| [(*what).into(), default(key), code(key), (*past).into()]);
    let (answer, client) = (Config::default().answer_bytes_max(), CLIENT_BYTES_DEFAULT);
    format!(
        "# Limits

Every part of a request that can be large has a limit. A request past a limit is refused with an error
that names the field, and nothing is stored; see [errors](errors.md) for the reasons. Work of a
transaction that has begun is never refused for lack of memory: votes, the client's Commit and
Rollback, Commits and Cancels to participants, and the adoption of transactions after a crash.

## Limits that can be set

{}
A 0 here is no bound. The meaning of each is with its [setting](config.md).

With the defaults, the largest answer (one transaction with all its parts) has less than {answer} bytes.
Clients in Go, Java, Python and Node.js accept messages of up to {client} bytes by default, so they need
no settings. If larger limits allow a larger answer, the coordinator warns when it starts, and such
clients must raise their limit for received messages.

## Names and identifiers

These limits are part of the wire contract and cannot be set. Participants build the names of prepared
transactions from these values, and databases limit the length of such names.

{}
## Limits of requests

{}",
        table(["Limit", "Default", "Setting", "Past it"], settable),
        table(["Name", "Rule"], names()),
        table(["Limit", "Value", "Past it"], requests())
    )
}

/// Result of a history over a limit.
const PAGED: &str = "the rest is on the next page; `cut` counts it";

/// Result of a timeline over a limit.
const CUT: &str = "the newest entries are shown, `timeline_dropped` counts the others";

fn names() -> [[String; 2]; 7] {
    let text = |max: usize| {
        format!("1 to {max} bytes of `A-Z a-z 0-9 _ . : -`, the first one a letter, a digit or `_`")
    };
    [
        ["`gid`, `branch_id`".into(), text(ID_BYTES_MAX)],
        ["names of participants, actions, nodes and features".into(), text(NAME_BYTES_MAX)],
        ["names of namespaces".into(), text(NAMESPACE_BYTES_MAX)],
        [
            "keys of metadata, `instance_id`, reasons of refusals".into(),
            format!("1 to {NAME_BYTES_MAX} bytes of `A-Z a-z 0-9 _ . : -`"),
        ],
        [
            "`tx_id`".into(),
            "a UUID as the coordinator gave it: 36 characters, lower case, hyphens".into(),
        ],
        [
            "endpoints of participants".into(),
            format!(
                "`http://HOST:PORT`, or over HTTP with JSON `http+json://HOST:PORT/BASE`; with TLS `https`; at most \
                 {ENDPOINT_BYTES_MAX} bytes"
            ),
        ],
        [
            "`media_type` of a payload".into(),
            format!(
                "empty, or at most {MEDIA_TYPE_BYTES_MAX} bytes of printable ASCII without a space \
                 at either end; an output's that is none is dropped"
            ),
        ],
    ]
}

fn requests() -> Vec<[String; 3]> {
    let refused = "`FIELD_INVALID`";
    let limits = unanimo_core::Limits::default();
    let days = format!("{} days", limits.start_delay_max.as_secs() / (24 * 60 * 60));
    [
        (
            "Entries of a page of ListTransactions and ListParticipants",
            format!("{PAGE_MAX}, default {PAGE_DEFAULT}"),
            "the page has so many",
        ),
        (
            "Bytes of a page",
            format!("{PAGE_BYTES_MAX} bytes"),
            "the page ends, and the next one goes on there",
        ),
        ("Timeline of a transaction", format!("{TIMELINE_ENTRIES_MAX} entries"), CUT),
        ("Bytes of a timeline", format!("{TIMELINE_BYTES_MAX} bytes"), CUT),
        ("Bytes of a page of an exported history", format!("{HISTORY_BYTES_MAX} bytes"), PAGED),
        (
            "Names of dependencies, inputs and locks of a transaction",
            format!("{} bytes", limits.names_bytes_max),
            refused,
        ),
        ("Locks of a transaction, and of each branch", limits.locks_max.to_string(), refused),
        ("Time ahead of a start, and delay of a step", days, refused),
        ("Children that stand in each other", limits.children_depth_max.to_string(), refused),
        (
            "Transactions that one request begins, with all children",
            limits.family_max.to_string(),
            refused,
        ),
        ("Features in `requires`", REQUIRES_MAX.to_string(), refused),
        ("Branches of InquireBranches", INQUIRE_MAX.to_string(), refused),
        ("Operator's name", format!("{OPERATOR_BYTES_MAX} bytes"), refused),
        ("Operator's note", format!("{NOTE_BYTES_MAX} bytes"), refused),
        ("`instance_id` of a registration", format!("{INSTANCE_BYTES_MAX} bytes"), refused),
        (
            "Endpoints of a participant",
            ENDPOINTS_MAX.to_string(),
            "the one that is gone for the longest time leaves; `OVERLOADED` if all are alive",
        ),
        (
            "Instances of all participants",
            format!(
                "{INSTANCES_TOTAL_MAX}, and {} MiB of what they state",
                REGISTRATIONS_BYTES_MAX >> 20
            ),
            "`OVERLOADED`",
        ),
        ("`states` of ListTransactions", STATES_MAX.to_string(), refused),
        ("`modes` of ListTransactions", MODES_MAX.to_string(), refused),
        ("`metadata` of ListTransactions", format!("{METADATA_MAX} entries"), refused),
        (
            "Streams of WatchTransactions",
            format!("{STREAMS_MAX}, of one identity or connection {STREAMS_OF_ONE_MAX}"),
            "`OVERLOADED`",
        ),
        ("`features` of a registration", FEATURES_MAX.to_string(), refused),
        ("`sdk` of a registration", format!("{SDK_BYTES_MAX} bytes"), refused),
        ("`traceparent`, `tracestate`", format!("{TRACE_BYTES_MAX} bytes each"), "it is ignored"),
        (
            "Error, refusal's message or heuristic note of a participant",
            format!("{TEXT_BYTES_MAX} bytes"),
            "it is cut off",
        ),
    ]
    .map(|(what, value, past)| [what.to_owned(), value, past.to_owned()])
    .into()
}

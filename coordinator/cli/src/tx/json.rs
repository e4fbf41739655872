//! Output of `--json`, which `unanimo tx --help` describes. Keys are only ever added, because
//! programs depend on them.

mod hidden;
mod waiting;

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use serde_json::value::RawValue;
use unanimo_proto::v1;

use self::hidden::Hidden;
use self::waiting::Waiting;
use super::words;

/// A transaction.
#[derive(Serialize)]
pub(super) struct Transaction {
    tx_id: String,
    gid: String,
    mode: &'static str,
    state: String,
    outcome: String,
    abort_cause: Option<String>,
    abort_branch_id: Option<String>,
    abort_detail: Option<String>,
    heuristic: String,
    stalled: bool,
    attention: bool,
    alarms: Vec<String>,
    unreadable: Option<String>,
    created_at: Option<String>,
    start_at: Option<String>,
    started_at: Option<String>,
    deadline: Option<String>,
    decided_at: Option<String>,
    ended_at: Option<String>,
    stripped: bool,
    metadata: BTreeMap<String, String>,
    parent: Option<Parent>,
    locks: Vec<Lock>,
    waiting: Option<Waiting>,
    branch_count: u32,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    branches: Option<Vec<Branch>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline: Option<Vec<TimelineEntry>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeline_dropped: Option<u32>,
}

#[derive(Serialize)]
struct Parent {
    tx_id: String,
    branch_id: String,
}

#[derive(Serialize)]
struct Lock {
    name: String,
    mode: &'static str,
    granted: bool,
    branch_id: Option<String>,
    holder_gid: Option<String>,
    holder_waits: bool,
}

#[derive(Serialize)]
struct Input {
    name: String,
    branch_id: String,
}

#[derive(Serialize)]
struct Branch {
    branch_id: String,
    branch_number: u32,
    participant: String,
    action: String,
    mode: &'static str,
    state: String,
    vote: Option<String>,
    refusal: Option<Refusal>,
    prepare: Option<Attempts>,
    phase_two: Option<Attempts>,
    voted_at: Option<String>,
    ended_at: Option<String>,
    heuristic_note: Option<String>,
    resolved_by: Option<String>,
    resolution_note: Option<String>,
    depends_on: Vec<String>,
    inputs: Vec<Input>,
    pivot: bool,
    compensation: String,
    due_at: Option<String>,
    child_gid: Option<String>,
    output_dropped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    #[serde(flatten)]
    hidden: Hidden,
}

#[derive(Serialize)]
struct Refusal {
    reason: String,
    message: String,
}

#[derive(Serialize)]
struct Attempts {
    count: u32,
    first_at: Option<String>,
    last_at: Option<String>,
    first_error: Option<String>,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct TimelineEntry {
    at: Option<String>,
    event: String,
    branch_id: Option<String>,
    detail: Option<String>,
}

/// Result of a submission.
#[derive(Serialize)]
pub(crate) struct Submitted {
    tx_id: Option<String>,
    gid: String,
    outcome: String,
    ended: bool,
    heuristic: String,
    abort_cause: Option<String>,
    abort_branch_id: Option<String>,
    abort_detail: Option<String>,
    branches: Vec<SubmittedBranch>,
}

#[derive(Serialize)]
struct SubmittedBranch {
    branch_id: String,
    vote: Option<String>,
    refusal: Option<Refusal>,
    last_error: Option<String>,
    output_dropped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
}

/// A page of transactions.
#[derive(Serialize)]
pub(super) struct Page {
    pub(super) transactions: Vec<Transaction>,
    /// Argument of `--page-token` for the next page; null after the last one.
    pub(super) next_page_token: Option<String>,
}

/// Parts of a transaction that were asked for: a list has no branches, only the full view has a
/// timeline.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    List,
    Basic,
    Full,
}

impl Transaction {
    pub(super) fn new(tx: v1::Transaction, view: View) -> Self {
        let branches = || tx.branches.into_iter().map(Branch::from).collect();
        let timeline = || tx.timeline.into_iter().map(TimelineEntry::from).collect();
        Self {
            mode: words::mode(tx.mode),
            state: words::state(v1::TransactionState::try_from(tx.state).unwrap_or_default()),
            outcome: words::outcome(v1::Outcome::try_from(tx.outcome).unwrap_or_default()),
            abort_cause: words::abort_cause(
                v1::AbortCause::try_from(tx.abort_cause).unwrap_or_default(),
            ),
            heuristic: words::heuristic(v1::Heuristic::try_from(tx.heuristic).unwrap_or_default()),
            tx_id: tx.tx_id,
            gid: tx.gid,
            abort_branch_id: some(tx.abort_branch_id),
            abort_detail: some(tx.abort_detail),
            stalled: tx.stalled,
            attention: tx.attention,
            alarms: tx.alarms,
            unreadable: some(tx.unreadable),
            created_at: tx.created_at.map(words::time),
            start_at: tx.start_at.map(words::time),
            started_at: tx.started_at.map(words::time),
            deadline: tx.deadline.map(words::time),
            decided_at: tx.decided_at.map(words::time),
            ended_at: tx.ended_at.map(words::time),
            stripped: tx.stripped,
            metadata: tx.metadata.into_iter().collect(),
            parent: tx
                .parent
                .map(|v1::ParentBranch { tx_id, branch_id }| Parent { tx_id, branch_id }),
            locks: tx.locks.into_iter().map(Lock::from).collect(),
            waiting: tx.waiting.map(Waiting::from),
            branch_count: tx.branch_count,
            revision: tx.revision,
            branches: (view != View::List).then(branches),
            timeline: (view == View::Full).then(timeline),
            timeline_dropped: (view == View::Full).then_some(tx.timeline_dropped),
        }
    }
}

impl From<v1::Branch> for Branch {
    fn from(branch: v1::Branch) -> Self {
        let (payload, payload_base64) = content(branch.payload.as_ref());
        let (output, output_base64) = content(branch.output.as_ref());
        Self {
            mode: words::mode(branch.mode),
            state: words::branch_state(branch.state()),
            compensation: words::compensation(branch.compensation()),
            vote: words::vote(branch.vote()),
            branch_id: branch.branch_id,
            branch_number: branch.branch_number,
            participant: branch.participant,
            action: branch.action,
            refusal: branch.refusal.map(Refusal::from),
            prepare: branch.prepare_attempts.map(Attempts::from),
            phase_two: branch.phase_two_attempts.map(Attempts::from),
            voted_at: branch.voted_at.map(words::time),
            ended_at: branch.ended_at.map(words::time),
            heuristic_note: some(branch.heuristic_note),
            resolved_by: some(branch.resolved_by),
            resolution_note: some(branch.resolution_note),
            depends_on: branch.depends_on,
            inputs: branch.inputs.into_iter().map(Input::from).collect(),
            pivot: branch.pivot,
            due_at: branch.due_at.map(words::time),
            child_gid: some(branch.child_gid),
            output_dropped: branch.output_dropped,
            payload,
            payload_base64,
            output,
            output_base64,
            hidden: Hidden::new(branch.hidden_payload, branch.hidden_output),
        }
    }
}

impl From<v1::HeldLock> for Lock {
    fn from(lock: v1::HeldLock) -> Self {
        let mode = words::lock_mode(lock.mode());
        Self {
            name: lock.name,
            mode,
            granted: lock.granted,
            branch_id: some(lock.branch_id),
            holder_gid: some(lock.holder_gid),
            holder_waits: lock.holder_waits,
        }
    }
}

impl From<v1::StepInput> for Input {
    fn from(v1::StepInput { name, branch_id }: v1::StepInput) -> Self {
        Self { name, branch_id }
    }
}

impl Submitted {
    pub(crate) fn new(gid: String, result: v1::TransactionResult) -> Self {
        Self {
            outcome: words::outcome(result.outcome()),
            heuristic: words::heuristic(result.heuristic()),
            abort_cause: words::abort_cause(result.abort_cause()),
            // The tx_id is empty if the coordinator has not stored the transaction yet.
            tx_id: some(result.tx_id),
            gid,
            ended: result.ended,
            abort_branch_id: some(result.abort_branch_id),
            abort_detail: some(result.abort_detail),
            branches: result.branches.into_iter().map(SubmittedBranch::from).collect(),
        }
    }
}

impl From<v1::BranchResult> for SubmittedBranch {
    fn from(branch: v1::BranchResult) -> Self {
        let (output, output_base64) = content(branch.output.as_ref());
        Self {
            vote: words::vote(branch.vote()),
            branch_id: branch.branch_id,
            refusal: branch.refusal.map(Refusal::from),
            last_error: some(branch.last_error),
            output_dropped: branch.output_dropped,
            output,
            output_base64,
        }
    }
}

impl From<v1::Refusal> for Refusal {
    fn from(v1::Refusal { reason, message }: v1::Refusal) -> Self {
        Self { reason, message }
    }
}

impl From<v1::Attempts> for Attempts {
    fn from(attempts: v1::Attempts) -> Self {
        Self {
            count: attempts.count,
            first_at: attempts.first_at.map(words::time),
            last_at: attempts.last_at.map(words::time),
            first_error: some(attempts.first_error),
            last_error: some(attempts.last_error),
        }
    }
}

impl From<v1::TimelineEntry> for TimelineEntry {
    fn from(entry: v1::TimelineEntry) -> Self {
        Self {
            at: entry.occurred_at.map(words::time),
            event: entry.event,
            branch_id: some(entry.branch_id),
            detail: some(entry.detail),
        }
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

/// Returns the bytes as JSON if they are, otherwise as base64.
fn content(payload: Option<&v1::Payload>) -> (Option<Box<RawValue>>, Option<String>) {
    let bytes = payload.map_or(&[][..], |payload| &payload.data);
    if bytes.is_empty() {
        return (None, None);
    }
    let json = serde_json::from_slice::<&RawValue>(bytes).ok();
    // One line, otherwise unchanged: a parsed number could be rounded.
    match json.and_then(|json| RawValue::from_string(compact(json.get())).ok()) {
        Some(json) => (Some(json), None),
        None => (None, Some(BASE64_STANDARD.encode(bytes))),
    }
}

/// Removes the white space between the tokens of valid JSON.
pub(crate) fn compact(json: &str) -> String {
    let (mut in_text, mut escaped) = (false, false);
    let keep = |c: &char| {
        let is_space = !in_text && c.is_ascii_whitespace();
        let is_quote = *c == '"' && !escaped;
        escaped = in_text && *c == '\\' && !escaped;
        in_text ^= is_quote;
        !is_space
    };
    json.chars().filter(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_shown_as_it_is_and_the_rest_as_base64() {
        for (bytes, json, base64) in [
            (&b""[..], None, None),
            (
                b"{\"b\": 1.0,\n \"a\": \"x \\\" y\\\\\" }",
                Some(r#"{"b":1.0,"a":"x \" y\\"}"#),
                None,
            ),
            (b" 12345678901234567890123 ", Some("12345678901234567890123"), None),
            (b"plain", None, Some("cGxhaW4=")),
            (b"\"\xff\"", None, Some("Iv8i")),
        ] {
            let (found, encoded) = content(Some(&v1::Payload {
                data: bytes.to_vec().into(),
                media_type: String::new(),
            }));
            assert_eq!(found.as_deref().map(RawValue::get), json);
            assert_eq!(encoded.as_deref(), base64);
        }
    }
}

//! Answers of the API, as far as the pages show them.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::words::word;
use super::{Figure, text};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct List {
    pub(super) transactions: Vec<Tx>,
    pub(super) next_page_token: String,
    pub(super) counts: Counts,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Found {
    pub(super) transaction: Tx,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Tx {
    pub(super) tx_id: String,
    pub(super) gid: String,
    pub(super) mode: String,
    pub(super) state: String,
    pub(super) outcome: String,
    pub(super) abort_cause: String,
    pub(super) abort_branch_id: String,
    pub(super) abort_detail: String,
    pub(super) heuristic: String,
    pub(super) stalled: bool,
    pub(super) attention: bool,
    pub(super) alarms: Vec<String>,
    pub(super) branch_count: u32,
    pub(super) branches: Vec<Branch>,
    pub(super) created_at: String,
    pub(super) deadline: String,
    pub(super) decided_at: String,
    pub(super) ended_at: String,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) timeline: Vec<Entry>,
    pub(super) revision: String,
    pub(super) unreadable: String,
    pub(super) waiting: Option<Waiting>,
    pub(super) trace_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    pub(super) sentence: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Entry {
    pub(super) occurred_at: String,
    pub(super) event: String,
    pub(super) branch_id: String,
    pub(super) detail: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Branch {
    pub(super) branch_id: String,
    pub(super) participant: String,
    pub(super) action: String,
    mode: String,
    pub(super) state: String,
    vote: String,
    refusal: Option<Refusal>,
    payload: Option<Payload>,
    output: Option<Payload>,
    pub(super) prepare_attempts: Attempts,
    pub(super) phase_two_attempts: Attempts,
    pub(super) voted_at: String,
    pub(super) ended_at: String,
    heuristic_note: String,
    pub(super) resolved_by: String,
    depends_on: Vec<String>,
    pub(super) inputs: Vec<serde_json::Value>,
    pub(super) pivot: bool,
    child_gid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Refusal {
    reason: String,
    message: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Payload {
    data: String,
    media_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Attempts {
    pub(super) count: u32,
    pub(super) first_at: String,
    pub(super) last_at: String,
    pub(super) last_error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Counts {
    /// Time of counting.
    #[serde(skip)]
    pub(super) counted_at: String,
    states: Vec<StateCount>,
    stalled_count: String,
    heuristic_count: String,
    unreadable_count: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StateCount {
    state: String,
    transaction_count: String,
    at_least: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Participants {
    pub(super) participants: Vec<Participant>,
    pub(super) next_page_token: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Participant {
    pub(super) name: String,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) transactions_parked: u32,
    pub(super) health: super::pulse::Health,
    pub(super) versions: Vec<Version>,
}

/// Instances of a participant with the same SDK and features.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Version {
    sdk: String,
    pub(super) features: Vec<String>,
    pub(super) instance_count: u32,
    pub(super) alive_count: u32,
    pub(super) last_seen_at: String,
    pub(super) may_switch_off: bool,
    pub(super) sentence: String,
}

impl Version {
    /// Returns its name.
    pub(super) fn name(&self) -> &str {
        if self.sdk.is_empty() { "not named" } else { &self.sdk }
    }

    pub(super) fn tone(&self) -> &'static str {
        if self.may_switch_off { "good" } else { "wait" }
    }

    pub(super) fn word(&self) -> &'static str {
        if self.may_switch_off { "may go" } else { "is needed" }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Endpoint {
    pub(super) endpoint: String,
    pub(super) configured: bool,
    pub(super) last_seen_at: String,
    pub(super) alive: bool,
    pub(super) features: Vec<String>,
    pub(super) sdk: String,
}

impl Endpoint {
    /// Returns what is known of it. A configured one registers nothing: whether it is there is seen by its answers alone.
    pub(super) fn word(&self) -> &'static str {
        match (self.configured, self.alive) {
            (true, _) if self.endpoint == IN_PROCESS => "alive",
            (true, _) => "configured",
            (false, true) => "alive",
            (false, false) => "gone",
        }
    }

    pub(super) fn tone(&self) -> &'static str {
        match self.word() {
            "alive" => "good",
            "gone" => "bad",
            _ => "",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Info {
    pub(super) version: String,
    pub(super) cluster_id: String,
    pub(super) features: Vec<String>,
    pub(super) limits: serde_json::Map<String, serde_json::Value>,
}

impl Tx {
    /// Returns its name: the client's, if that can be read.
    pub(super) fn name(&self) -> &str {
        if self.gid.is_empty() { &self.tx_id } else { &self.gid }
    }

    pub(super) fn state_word(&self) -> String {
        word(&self.state, "TRANSACTION_STATE_")
    }

    pub(super) fn mode_word(&self) -> String {
        word(&self.mode, "MODE_")
    }

    pub(super) fn is_heuristic(&self) -> bool {
        !matches!(self.heuristic.as_str(), "" | "HEURISTIC_NONE")
    }

    /// Tells whether it has an alarm that an operator may clear.
    pub(super) fn may_be_forgotten(&self) -> bool {
        !self.ended_at.is_empty() && self.attention && self.is_heuristic()
    }

    pub(super) fn heuristic_word(&self) -> String {
        format!("heuristic {}", word(&self.heuristic, "HEURISTIC_"))
    }

    pub(super) fn abort_word(&self) -> String {
        word(&self.abort_cause, "ABORT_CAUSE_")
    }

    /// Returns the class of its state.
    pub(super) fn tone(&self) -> &'static str {
        match self.state.as_str() {
            "TRANSACTION_STATE_COMMITTED" => "good",
            "TRANSACTION_STATE_ABORTED" => "",
            _ => "wait",
        }
    }
}

impl Branch {
    pub(super) fn state_word(&self) -> String {
        // At night the difference counts: one that was undone did something.
        if self.state == "BRANCH_STATE_CANCELLED" && !self.is_called() && !self.ended_at.is_empty()
        {
            return "not sent".to_owned();
        }
        word(&self.state, "BRANCH_STATE_")
    }

    /// Tells whether something is owed to it.
    pub(super) fn is_open(&self) -> bool {
        self.ended_at.is_empty()
    }

    /// Tells whether its participant was called for it.
    pub(super) fn is_called(&self) -> bool {
        self.prepare_attempts.count + self.phase_two_attempts.count > 0
    }

    /// Tells whether an operator may end it: it waits for its participant.
    pub(super) fn may_be_resolved(&self) -> bool {
        let is_owed = matches!(
            self.state.as_str(),
            "BRANCH_STATE_PREPARING" | "BRANCH_STATE_COMMITTING" | "BRANCH_STATE_CANCELLING"
        );
        is_owed && self.is_open() && self.is_called()
    }

    pub(super) fn tone(&self) -> &'static str {
        match self.state.as_str() {
            "BRANCH_STATE_COMMITTED" | "BRANCH_STATE_DONE" | "BRANCH_STATE_PREPARED" => "good",
            "BRANCH_STATE_REFUSED" => "bad",
            state if state.contains("HEURISTIC") => "bad",
            state if state.ends_with("ING") => "wait",
            _ => "",
        }
    }

    /// Returns what there is to say of it, by name.
    pub(super) fn pairs(&self) -> Vec<(&'static str, String)> {
        let attempts = |attempts: &Attempts| match attempts.count {
            0 => String::new(),
            1 => format!("1, at {}", super::words::time(&attempts.last_at)),
            count => {
                let [first, last] =
                    [&attempts.first_at, &attempts.last_at].map(|at| super::words::time(at));
                format!("{count}, first at {first}, last at {last}")
            }
        };
        let refusal = self.refusal.as_ref();
        let refusal = refusal.map(|refusal| format!("{}: {}", refusal.reason, refusal.message));
        let all = [
            ("mode", word(&self.mode, "MODE_")),
            ("after", self.depends_on.join(", ")),
            ("vote", word(&self.vote, "VOTE_")),
            ("voted", super::words::time(&self.voted_at)),
            ("refusal", refusal.unwrap_or_default()),
            ("attempts of phase one", attempts(&self.prepare_attempts)),
            ("its last error", self.prepare_attempts.last_error.clone()),
            ("attempts of phase two", attempts(&self.phase_two_attempts)),
            ("last error of phase two", self.phase_two_attempts.last_error.clone()),
            ("ended", super::words::time(&self.ended_at)),
            ("note", self.heuristic_note.clone()),
            ("child", self.child_gid.clone()),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Returns payload and output as texts.
    pub(super) fn bytes(&self) -> Vec<(&'static str, String)> {
        let all = [("Payload", &self.payload), ("Output", &self.output)];
        let some = all.into_iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?)));
        some.map(|(name, bytes)| (name, text::shown(&bytes.data, &bytes.media_type)))
            .filter(|(_, text)| !text.is_empty())
            .collect()
    }
}

impl Counts {
    pub(super) fn figures(&self) -> Vec<Figure> {
        let of = |state: &str| {
            let found =
                self.states.iter().find(|of| word(&of.state, "TRANSACTION_STATE_") == state);
            found.map_or_else(
                || "0".to_owned(),
                |of| {
                    let count =
                        if of.transaction_count.is_empty() { "0" } else { &of.transaction_count };
                    format!("{count}{}", if of.at_least { "+" } else { "" })
                },
            )
        };
        let figure = |name, value: String, more: &str, is_bad: bool| {
            let is_bad = is_bad && value != "0";
            Figure { name, value, more: more.to_owned(), is_bad }
        };
        let number = |text: &str| if text.is_empty() { "0".to_owned() } else { text.to_owned() };
        let [committed, aborted] = ["committed", "aborted"].map(of);
        let last_minute = |count: &str| format!("in the last minute{}", per_second(count));
        let (of_committed, of_aborted) = (last_minute(&committed), last_minute(&aborted));
        vec![
            figure("active", of("active"), "not decided", false),
            figure("in doubt", of("in doubt"), "children that wait", false),
            figure("committing", of("committing"), "owed a Commit", false),
            figure("aborting", of("aborting"), "owed a Cancel", false),
            figure("scheduled", of("scheduled"), "start later", false),
            figure("committed", committed, &of_committed, false),
            figure("aborted", aborted, &of_aborted, false),
            figure("stalled", number(&self.stalled_count), "", true),
            figure("heuristic", number(&self.heuristic_count), "not forgotten", true),
            figure("unreadable", number(&self.unreadable_count), "set aside", true),
        ]
    }
}

/// Returns the rate of what happened so often in a minute, where there is one.
fn per_second(count: &str) -> String {
    let (count, more) = count.strip_suffix('+').map_or((count, ""), |count| (count, "+"));
    match count.parse::<u64>() {
        Ok(count @ 6..) => format!(", {}.{}{more} a second", count / 60, count % 60 / 6),
        _ => String::new(),
    }
}

/// Endpoint of a participant in the coordinator's own process.
const IN_PROCESS: &str = "in-process";

//! Answers of the API, as far as the pages show them.

mod branch;

use std::collections::BTreeMap;

use serde::Deserialize;

pub(super) use self::branch::{Attempts, Branch};
use super::Figure;
use super::words::{exact, since as age, word};

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
    /// Its branches, metadata and history were purged.
    pub(super) stripped: bool,
    /// Entries that the timeline does not show.
    pub(super) timeline_dropped: u32,
    pub(super) parent: Option<Parent>,
    pub(super) locks: Vec<Lock>,
    pub(super) start_at: String,
    pub(super) started_at: String,
}

/// Branch of another transaction that a child is.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Parent {
    pub(super) tx_id: String,
    pub(super) branch_id: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Lock {
    pub(super) name: String,
    mode: String,
    granted: bool,
    pub(super) branch_id: String,
    pub(super) holder_gid: String,
    holder_waits: bool,
}

impl Lock {
    pub(super) fn mode_word(&self) -> String {
        word(&self.mode, "LOCK_MODE_")
    }

    pub(super) fn tone(&self) -> &'static str {
        if self.granted { "good" } else { "wait" }
    }

    /// Returns how it stands with it.
    pub(super) fn word(&self) -> &'static str {
        match (self.granted, self.holder_gid.is_empty(), self.holder_waits) {
            (true, ..) => "held",
            (false, true, _) => "waits",
            (false, false, false) => "waits: held by",
            (false, false, true) => "waits behind",
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Waiting {
    pub(super) sentence: String,
    since: String,
    until: String,
}

impl Waiting {
    /// Returns for how long it has waited, and how much is left to the time that the sentence names.
    pub(super) fn ages(&self) -> String {
        let [since, until] = [&self.since, &self.until].map(|time| age(time));
        let so_far = since.strip_suffix(" ago").map(|lasting| format!("for {lasting} by now"));
        let next = until.strip_prefix("in ").map(|left| format!("{left} left"));
        so_far.into_iter().chain(next).collect::<Vec<_>>().join(", ")
    }
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
    pub(super) instance_id: String,
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

    /// Returns what is wrong with it, in words of a list; nothing if it needs nobody.
    pub(super) fn troubles(&self) -> Vec<String> {
        let flags = [
            (self.stalled, "stalled".to_owned()),
            (self.is_heuristic(), self.heuristic_word()),
            (!self.unreadable.is_empty(), "unreadable".to_owned()),
        ];
        let flags = flags.into_iter().filter(|(is_set, _)| *is_set).map(|(_, word)| word);
        let mut all: Vec<String> =
            flags.chain(self.alarms.iter().map(|name| name.replace('_', " "))).collect();
        if all.is_empty() && self.attention {
            all.push("needs a person".to_owned());
        }
        all
    }

    /// Returns when it starts, or has started, where that is not its begin.
    pub(super) fn start(&self) -> Option<(&'static str, String)> {
        match (self.started_at.as_str(), self.start_at.as_str()) {
            ("", "") => None,
            ("", at) => Some(("starts", exact(at))),
            (at, _) => Some(("started", exact(at))),
        }
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

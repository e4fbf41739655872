//! Branches, as the pages show them.

use serde::Deserialize;

use super::super::pulse::Number;
use super::super::text;
use super::super::words::{exact, time, word};

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dashboard) struct Branch {
    pub(in crate::dashboard) branch_id: String,
    pub(in crate::dashboard) participant: String,
    pub(in crate::dashboard) action: String,
    mode: String,
    pub(in crate::dashboard) state: String,
    pub(in crate::dashboard) vote: String,
    refusal: Option<Refusal>,
    payload: Option<Payload>,
    output: Option<Payload>,
    hidden_payload: Option<Hidden>,
    hidden_output: Option<Hidden>,
    output_dropped: bool,
    pub(in crate::dashboard) prepare_attempts: Attempts,
    pub(in crate::dashboard) phase_two_attempts: Attempts,
    pub(in crate::dashboard) voted_at: String,
    pub(in crate::dashboard) ended_at: String,
    heuristic_note: String,
    pub(in crate::dashboard) resolved_by: String,
    resolution_note: String,
    depends_on: Vec<String>,
    pub(in crate::dashboard) inputs: Vec<Input>,
    pub(in crate::dashboard) pivot: bool,
    compensation: String,
    due_at: String,
    pub(in crate::dashboard) child_gid: String,
}

/// Output of another step that goes with its calls.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dashboard) struct Input {
    name: String,
    pub(in crate::dashboard) branch_id: String,
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

/// Content that whoever looks may not read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hidden {
    byte_count: Number,
    media_type: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dashboard) struct Attempts {
    pub(in crate::dashboard) count: u32,
    pub(in crate::dashboard) first_at: String,
    pub(in crate::dashboard) last_at: String,
    pub(in crate::dashboard) first_error: String,
    pub(in crate::dashboard) last_error: String,
}

impl Hidden {
    fn shown(&self) -> String {
        let media_type = match self.media_type.as_str() {
            "" => String::new(),
            media_type => format!(", {media_type}"),
        };
        format!("{} bytes{media_type}. Operators and its initiator may read them.", self.byte_count)
    }
}

impl Attempts {
    /// Returns their number and times, in words.
    fn shown(&self) -> String {
        match self.count {
            0 => String::new(),
            1 => format!("1, at {}", time(&self.last_at)),
            count => {
                let [first, last] = [&self.first_at, &self.last_at].map(|at| time(at));
                format!("{count}, first at {first}, last at {last}")
            }
        }
    }

    /// Returns the first error, where the last one is another.
    fn other_first_error(&self) -> String {
        match self.first_error == self.last_error {
            true => String::new(),
            false => self.first_error.clone(),
        }
    }
}

impl Branch {
    pub(in crate::dashboard) fn state_word(&self) -> String {
        // At night the difference counts: one that was undone did something.
        if self.state == "BRANCH_STATE_CANCELLED" && !self.is_called() && !self.ended_at.is_empty()
        {
            return "not sent".to_owned();
        }
        word(&self.state, "BRANCH_STATE_")
    }

    /// Tells whether it is a step of a saga: its first call acts, and its second one undoes.
    pub(in crate::dashboard) fn is_step(&self) -> bool {
        self.mode == "MODE_SAGA"
    }

    /// Tells whether something is owed to it.
    pub(in crate::dashboard) fn is_open(&self) -> bool {
        self.ended_at.is_empty()
    }

    /// Tells whether its participant was called for it.
    pub(in crate::dashboard) fn is_called(&self) -> bool {
        self.prepare_attempts.count + self.phase_two_attempts.count > 0
    }

    /// Tells whether an operator may end it: it waits for its participant.
    pub(in crate::dashboard) fn may_be_resolved(&self) -> bool {
        let is_owed = matches!(
            self.state.as_str(),
            "BRANCH_STATE_PREPARING" | "BRANCH_STATE_COMMITTING" | "BRANCH_STATE_CANCELLING"
        );
        is_owed && self.is_open() && self.is_called()
    }

    pub(in crate::dashboard) fn tone(&self) -> &'static str {
        match self.state.as_str() {
            "BRANCH_STATE_COMMITTED" | "BRANCH_STATE_DONE" | "BRANCH_STATE_PREPARED" => "good",
            "BRANCH_STATE_REFUSED" => "bad",
            state if state.contains("HEURISTIC") => "bad",
            state if state.ends_with("ING") => "wait",
            _ => "",
        }
    }

    /// Returns what there is to say of it, by name.
    pub(in crate::dashboard) fn pairs(&self) -> Vec<(&'static str, String)> {
        let refusal = self.refusal.as_ref();
        let refusal = refusal.map(|refusal| format!("{}: {}", refusal.reason, refusal.message));
        let compensation = match self.compensation.as_str() {
            "COMPENSATION_NONE" => "none is needed",
            "COMPENSATION_KEPT" => "none: its effect stays",
            _ => "",
        };
        let inputs = self.inputs.iter();
        let inputs =
            inputs.map(|Input { name, branch_id }| format!("{name}: output of {branch_id}"));
        let (first, second) = (&self.prepare_attempts, &self.phase_two_attempts);
        let dropped = if self.output_dropped { "lost: it was over a limit" } else { "" };
        let (resolved, note) = match self.resolved_by.as_str() {
            "" => (String::new(), self.heuristic_note.clone()),
            by => (by.to_owned(), self.resolution_note.clone()),
        };
        let all = [
            ("mode", word(&self.mode, "MODE_")),
            ("after", self.depends_on.join(", ")),
            ("inputs", inputs.collect::<Vec<_>>().join(", ")),
            ("compensation", compensation.to_owned()),
            ("due at", exact(&self.due_at)),
            ("vote", word(&self.vote, "VOTE_")),
            ("voted", time(&self.voted_at)),
            ("refusal", refusal.unwrap_or_default()),
            ("attempts of phase one", first.shown()),
            ("its first error", first.other_first_error()),
            ("its last error", first.last_error.clone()),
            ("output", dropped.to_owned()),
            ("attempts of phase two", second.shown()),
            ("first error of phase two", second.other_first_error()),
            ("last error of phase two", second.last_error.clone()),
            ("ended", time(&self.ended_at)),
            ("ended by the word of", resolved),
            ("note", note),
        ];
        all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }

    /// Returns payload and output as texts.
    pub(in crate::dashboard) fn bytes(&self) -> Vec<(&'static str, String)> {
        let all = [
            ("Payload", &self.payload, &self.hidden_payload),
            ("Output", &self.output, &self.hidden_output),
        ];
        let texts = all.into_iter().map(|(name, bytes, hidden)| {
            let bytes = bytes.as_ref().map(|bytes| text::shown(&bytes.data, &bytes.media_type));
            let text = bytes.or_else(|| hidden.as_ref().map(Hidden::shown));
            (name, text.unwrap_or_default())
        });
        texts.filter(|(_, text)| !text.is_empty()).collect()
    }
}

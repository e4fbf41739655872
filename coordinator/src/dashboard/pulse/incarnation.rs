//! Incarnations, as the page about the system shows them.

use serde::Deserialize;

use super::{Number, Period};

/// Life of a process of the group.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(in crate::dashboard) struct Incarnation {
    pub(in crate::dashboard) incarnation: Number,
    pub(in crate::dashboard) node: String,
    answers: bool,
    may_write: bool,
    fenced_by: String,
    lease: Option<Period>,
}

impl Incarnation {
    /// Returns how it stands with it.
    pub(in crate::dashboard) fn word(&self) -> &'static str {
        match (self.answers, self.may_write) {
            (true, _) => "this one",
            (false, true) => "may write",
            (false, false) => "fenced",
        }
    }

    pub(in crate::dashboard) fn tone(&self) -> &'static str {
        match self.word() {
            "this one" => "good",
            "may write" => "wait",
            _ => "",
        }
    }

    /// Returns who ended it, or how long others wait before they do.
    pub(in crate::dashboard) fn why(&self) -> String {
        match (self.may_write, self.lease) {
            (false, _) => self.fenced_by.clone(),
            (true, Some(lease)) => format!("with a lease of {}", lease.shown()),
            (true, None) => String::new(),
        }
    }
}

//! Kinds of calls, each with slots and a breaker of its own.

/// Kind of a call. Each has breakers, slots and connections of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CallKind {
    /// Prepare.
    Prepare,
    /// Commit or Cancel.
    PhaseTwo,
}

impl CallKind {
    /// Both kinds.
    pub const ALL: [Self; 2] = [Self::Prepare, Self::PhaseTwo];

    /// Returns its name, as it stands in log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::PhaseTwo => "commit and cancel",
        }
    }
}

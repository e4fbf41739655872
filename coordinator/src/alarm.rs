//! Alarms: log lines of level ERROR with the field `alarm`, whose values are stable names. Each
//! asks for a person; docs/reference/metrics.md is made from [`TABLE`].

/// Phase two of a transaction takes too long.
pub const TRANSACTION_STALLED: &str = "transaction_stalled";

/// A branch ended by its participant's own decision, or by an operator's.
pub const HEURISTIC_OUTCOME: &str = "heuristic_outcome";

/// The database refused a row.
pub const WRITE_REFUSED: &str = "write_refused";

/// An alarm, as documented.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Its name.
    pub name: &'static str,
    /// When it is raised.
    pub raised: &'static str,
    /// Action for the operator.
    pub act: &'static str,
    /// The event that clears it.
    pub cleared: &'static str,
}

/// Every alarm.
pub const TABLE: &[Described] = &[
    Described {
        name: TRANSACTION_STALLED,
        raised: "Commit or Cancel is owed to a branch for longer than `stalled-after`. The calls go \
                 on.",
        act: "`unanimo tx show` tells what the participant answers. Repair the participant; \
              `unanimo tx retry` sends at once. If it will never answer, `unanimo tx resolve`.",
        cleared: "the transaction's end",
    },
    Described {
        name: HEURISTIC_OUTCOME,
        raised: "A branch ended against the decision, or nobody can tell how it ended: by its \
                 participant's word, or by an operator's.",
        act: "Compare the data of the participants and repair it by hand. The decision stands.",
        cleared: "`unanimo tx forget`",
    },
    Described {
        name: WRITE_REFUSED,
        raised: "The database refuses to store a change of a transaction. What was asked for has \
                 failed, and the transaction leaves memory until it is asked for again.",
        act: "Look at the error that the line carries; a fault of ours unless the schema was \
              changed: please report it.",
        cleared: "nothing; it is a single event",
    },
];

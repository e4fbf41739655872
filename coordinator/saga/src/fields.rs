//! Fields of a definition: the table from which the reader and the JSON Schema are made.

/// A field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    /// Meaning, as editors show it.
    pub(crate) help: &'static str,
}

/// Form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A text.
    Text,
    /// Name of a participant, an action or a saga.
    Name,
    /// `250ms`, `15s`, `1h 30m`.
    Duration,
    /// A time of RFC 3339.
    Time,
    /// True or false.
    Flag,
    /// A whole number from 1.
    Count,
    /// Any value.
    Json,
    /// Bytes in base64.
    Base64,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// An object.
    Object(Object),
    /// A name of a step, or a list of them.
    Ids,
    /// A list of locks.
    Locks,
    /// An object of texts.
    Texts,
    /// An object whose values are names of steps.
    Inputs,
    /// An object of declared inputs.
    Declarations,
    /// An object of steps.
    Steps,
}

/// Kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Saga,
    Step,
    Child,
    Retry,
    Lock,
    Input,
}

/// Names of the types of inputs.
pub(crate) const TYPES: &[&str] =
    &["string", "integer", "number", "boolean", "list", "object", "any"];
/// Names of the modes.
pub(crate) const MODES: &[&str] = &["saga", "tcc", "2pc"];
/// Names of the compensations.
pub(crate) const COMPENSATIONS: &[&str] = &["compensate", "none", "kept"];
/// Names of the modes of locks.
pub(crate) const LOCK_MODES: &[&str] = &["exclusive", "shared"];

const fn field(name: &'static str, form: Form, help: &'static str) -> Field {
    Field { name, form, help }
}

const SAGA: &[Field] = &[
    field("$schema", Form::Text, "Address of the JSON Schema, for editors"),
    field("saga", Form::Name, "Name of the saga; its transactions carry it in their metadata"),
    field("input", Form::Declarations, "Inputs of a run, each with its type"),
    field(
        "timeout",
        Form::Duration,
        "Time until ABORT if nothing was decided; it counts from the start",
    ),
    field(
        "metadata",
        Form::Texts,
        "Texts that are stored with the transaction and sent to participants",
    ),
    field("locks", Form::Locks, "Locks to be had before any step is sent; at most 16"),
    field("start_at", Form::Time, "Time before which nothing is sent"),
    field("start_delay", Form::Duration, "Time from now before which nothing is sent"),
    field("steps", Form::Steps, "Steps, 1 to 64, by name"),
];

const STEP: &[Field] = &[
    field("participant", Form::Name, "Name of the participant that does the step"),
    field("action", Form::Name, "Name of the participant's action"),
    field(
        "mode",
        Form::Choice(MODES),
        "Mode of the step. `tcc` and `2pc` keep their work reserved until the saga is decided",
    ),
    field("payload", Form::Json, "Argument of the action, sent as JSON"),
    field("payload_base64", Form::Base64, "Argument of the action where it is not JSON"),
    field("media_type", Form::Text, "Media type of the argument"),
    field("after", Form::Ids, "Steps that must have voted yes before this one is sent"),
    field(
        "inputs",
        Form::Inputs,
        "Outputs of earlier steps that this one reads: name of the input, and step; not with child",
    ),
    field("pivot", Form::Flag, "Its yes decides COMMIT: after it the saga only goes forward"),
    field("compensation", Form::Choice(COMPENSATIONS), "The way in which ABORT undoes the step"),
    field(
        "retry",
        Form::Object(Object::Retry),
        "Pauses of the attempts, and bounds on them; no bounds for the pivot and what follows it",
    ),
    field(
        "attempt_timeout",
        Form::Duration,
        "Time to wait for the answer of one attempt, at most the coordinator's call-timeout (default 10s)",
    ),
    field(
        "delay",
        Form::Duration,
        "Time between the last vote that it waits for and its first attempt",
    ),
    field("start_at", Form::Time, "Earliest time of its first attempt"),
    field("locks", Form::Locks, "Locks to be had before it is sent; at most 16"),
    field("child", Form::Object(Object::Child), "A transaction in the place of a participant"),
];

const CHILD: &[Field] = &[
    field("mode", Form::Choice(MODES), "Mode of the child; saga if it is left out"),
    field(
        "timeout",
        Form::Duration,
        "Time until ABORT, from the begin of the child until it has voted",
    ),
    field("locks", Form::Locks, "Locks to be had before any of its steps is sent; at most 16"),
    field("steps", Form::Steps, "Steps of the child, 1 to 64, by name; none is a pivot"),
];

const RETRY: &[Field] = &[
    field("attempts", Form::Count, "Most attempts"),
    field(
        "backoff",
        Form::Duration,
        "Pause after the first failure; it doubles with each further one",
    ),
    field("backoff_max", Form::Duration, "Longest pause"),
    field(
        "give_up_after",
        Form::Duration,
        "Time after the first attempt at which the step is given up",
    ),
];

const LOCK: &[Field] = &[
    field("name", Form::Text, "Name of the lock, such as `account:42`"),
    field("mode", Form::Choice(LOCK_MODES), "One holder, or any number that all hold it shared"),
    field(
        "wait",
        Form::Duration,
        "Longest time to wait for an older transaction; 10s if it is left out",
    ),
];

const INPUT: &[Field] = &[
    field("type", Form::Choice(TYPES), "Type of the value"),
    field("default", Form::Json, "Value where none is given"),
];

impl Object {
    /// Every kind.
    pub(crate) const ALL: [Self; 6] =
        [Self::Saga, Self::Step, Self::Child, Self::Retry, Self::Lock, Self::Input];

    /// Returns its name in the schema.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Saga => "saga",
            Self::Step => "step",
            Self::Child => "child",
            Self::Retry => "retry",
            Self::Lock => "lock",
            Self::Input => "input",
        }
    }

    /// Returns its fields.
    pub(crate) fn fields(self) -> &'static [Field] {
        match self {
            Self::Saga => SAGA,
            Self::Step => STEP,
            Self::Child => CHILD,
            Self::Retry => RETRY,
            Self::Lock => LOCK,
            Self::Input => INPUT,
        }
    }

    /// Returns the fields that must be given.
    pub(crate) fn required(self) -> &'static [&'static str] {
        match self {
            Self::Saga => &["saga", "steps"],
            Self::Child => &["steps"],
            Self::Lock => &["name"],
            // A step has a participant and an action, or a child.
            Self::Step | Self::Retry => &[],
            Self::Input => &["type"],
        }
    }
}

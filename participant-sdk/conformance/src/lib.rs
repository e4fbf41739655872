//! A list of a participant's guarantees, and a driver that checks them.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use unanimo_conformance::{Options, Remote};
//!
//! # async fn check() -> Result<(), Box<dyn std::error::Error>> {
//! let remote = Remote::connect("http://127.0.0.1:7701").await?;
//! let options = Options { payload: r#"{"euros":1}"#.into(), ..Options::new("bank", "debit") };
//! let never = std::future::pending();
//! let report = unanimo_conformance::run(Arc::new(remote), options, |_| {}, never).await?;
//! assert!(report.passed(), "{report}");
//! # Ok(())
//! # }
//! ```
//!
//! The kit speaks the wire contract and nothing else, so it checks any participant, in whatever
//! language, over gRPC ([`Remote`]), over HTTP with JSON ([`OverHttp`]) or in this process (whatever implements the generated
//! `ParticipantService`, such as the SDK's). The command `unanimo participant check` and the crate
//! `unanimo-testing` are made of it.
//!
//! It does real work at the participant: each guarantee makes transactions of its own, prepares
//! branches with the given action and payload, and cancels them at the end, except those that a
//! guarantee is about committing. [`Report::committed`] counts these.

mod answer;
mod guarantees;
mod session;
mod target;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use unanimo_proto::v1::Mode;

pub use self::answer::{End, Vote};
pub use self::guarantees::{GUARANTEES, Guarantee};
pub use self::session::{Branch, Operation, Session, Stop};
pub use self::target::{OverHttp, Remote, Target};

/// Work to ask a participant for, and the patience.
#[derive(Clone, Debug)]
pub struct Options {
    /// The participant's name.
    pub participant: String,
    /// One of its actions.
    pub action: String,
    /// An argument of the action that it accepts.
    pub payload: Bytes,
    /// Its media type; empty if it has none.
    pub payload_type: String,
    /// An argument of the action that it refuses, for the guarantees about refusals.
    pub refused_payload: Option<Bytes>,
    /// Its media type.
    pub refused_payload_type: String,
    /// An argument whose work takes some seconds, if there is one: longer than another call of its branch waits.
    pub slow_payload: Option<Bytes>,
    /// Inputs that the action reads, by name: what earlier steps of a saga would have answered. Sent with
    /// every operation.
    pub inputs: BTreeMap<String, Bytes>,
    /// Media types of inputs, by name. One that is not here has none.
    pub input_types: BTreeMap<String, String>,
    /// The mode that it does the action in.
    pub mode: Mode,
    /// The cluster id that its branches are to carry.
    pub cluster_id: String,
    /// Time for which an operation is asked again before it counts as not answered.
    pub patience: Duration,
}

impl Options {
    /// An action of a participant in TCC, without a payload, asked for up to [`Self::PATIENCE`].
    pub fn new(participant: impl Into<String>, action: impl Into<String>) -> Self {
        Self {
            participant: participant.into(),
            action: action.into(),
            payload: Bytes::new(),
            payload_type: String::new(),
            refused_payload: None,
            refused_payload_type: String::new(),
            slow_payload: None,
            inputs: BTreeMap::new(),
            input_types: BTreeMap::new(),
            mode: Mode::Tcc,
            cluster_id: Self::CLUSTER_ID.to_owned(),
            patience: Self::PATIENCE,
        }
    }

    /// A cluster id that no coordinator has: theirs are made of random bytes.
    pub const CLUSTER_ID: &'static str = "conformance-kit";

    /// Several times what a participant of the SDK waits for a lock.
    pub const PATIENCE: Duration = Duration::from_secs(15);
}

/// Result of one guarantee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds, as far as was seen.
    Passed,
    /// It does not hold: what was done and what was seen, in words.
    Failed(String),
    /// It was not checked, and why.
    Skipped(String),
}

/// One guarantee, and its result.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its name.
    pub guarantee: &'static str,
    /// Its rule.
    pub text: &'static str,
    /// Damage where it does not hold.
    pub why: &'static str,
    /// Its result.
    pub verdict: Verdict,
}

/// Results of all guarantees.
#[derive(Clone, Debug)]
pub struct Report {
    /// The participant.
    pub participant: String,
    /// The action.
    pub action: String,
    /// Every guarantee, in the order of [`GUARANTEES`].
    pub checked: Vec<Checked>,
    /// The refusal with which the action met [`Options::payload`]: what needs a yes is not checked.
    pub refused: Option<String>,
    /// Number of branches that were committed: their work stays.
    pub committed: u32,
    /// Branches that may be prepared still, because the participant did not say that they ended.
    pub left_behind: Vec<String>,
    /// It was stopped before its end.
    pub interrupted: bool,
}

impl Report {
    /// Tells whether nothing failed, nothing was left behind, and everything was checked that the action's
    /// mode allows: it was not stopped, and the action accepted the payload.
    #[must_use]
    pub fn passed(&self) -> bool {
        let failed = |checked: &Checked| matches!(checked.verdict, Verdict::Failed(_));
        !self.checked.iter().any(failed)
            && self.refused.is_none()
            && self.left_behind.is_empty()
            && !self.interrupted
    }

    /// Counts those that passed, failed and were skipped.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, usize) {
        self.checked.iter().fold((0, 0, 0), |(passed, failed, skipped), checked| {
            match checked.verdict {
                Verdict::Passed => (passed + 1, failed, skipped),
                Verdict::Failed(_) => (passed, failed + 1, skipped),
                Verdict::Skipped(_) => (passed, failed, skipped + 1),
            }
        })
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guarantee, text, why, verdict } = self;
        match verdict {
            Verdict::Passed => write!(f, "passed   {guarantee}"),
            Verdict::Skipped(reason) => write!(f, "skipped  {guarantee}: {reason}"),
            Verdict::Failed(seen) => {
                writeln!(f, "FAILED   {guarantee}: {seen}")?;
                write!(f, "         must hold: {text}\n         because: {why}")
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for checked in &self.checked {
            writeln!(f, "{checked}")?;
        }
        for branch in &self.left_behind {
            writeln!(f, "LEFT     {branch} may be prepared still")?;
        }
        Ok(())
    }
}

/// A participant that cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error("prepare a first branch of action {action} at participant {participant}: {why}")]
pub struct Unusable {
    /// The participant.
    pub participant: String,
    /// The action.
    pub action: String,
    /// Observation.
    pub why: String,
    /// Another kind of server listens at the endpoint.
    pub is_elsewhere: bool,
}

/// Drives a participant through every guarantee. `progress` is told each result as it comes. When
/// `stop` ends, what is prepared is cancelled, and what is left is not checked any more.
///
/// # Errors
/// The participant gives no vote at all, not even no.
pub async fn run(
    target: Arc<dyn Target>,
    options: Options,
    mut progress: impl FnMut(&Checked),
    stop: impl Future<Output = ()>,
) -> Result<Report, Unusable> {
    let session = Session::new(target, options.clone());
    let refused = session.first_vote().await;
    // In two-phase commit what is prepared holds locks that the next one may need.
    session.clean_up().await;
    let Options { participant, action, .. } = options;
    let refused = match refused {
        Ok(refused) => refused,
        Err(why) => {
            let is_elsewhere = session.is_elsewhere();
            return Err(Unusable { participant, action, why, is_elsewhere });
        }
    };
    let mut stop = std::pin::pin!(stop);
    let mut interrupted = false;
    let mut checked = Vec::with_capacity(GUARANTEES.len());
    for guarantee in &GUARANTEES {
        let result = if interrupted {
            Err(Stop::Skipped("it was interrupted".to_owned()))
        } else {
            tokio::select! {
                result = (guarantee.check)(session.clone()) => result,
                () = &mut stop => {
                    interrupted = true;
                    Err(Stop::Skipped("it was interrupted".to_owned()))
                }
            }
        };
        session.clean_up().await;
        let one = guarantee.checked(result);
        progress(&one);
        checked.push(one);
    }
    let (committed, left_behind) = session.traces();
    Ok(Report { participant, action, checked, refused, committed, left_behind, interrupted })
}

impl Guarantee {
    fn checked(&self, result: Result<(), Stop>) -> Checked {
        Checked {
            guarantee: self.name,
            text: self.text,
            why: self.why,
            verdict: match result {
                Ok(()) => Verdict::Passed,
                Err(Stop::Failed(seen)) => Verdict::Failed(seen),
                Err(Stop::Skipped(reason)) => Verdict::Skipped(reason),
            },
        }
    }
}

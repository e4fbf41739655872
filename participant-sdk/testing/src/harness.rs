//! Subject, payloads and order of the tests.

use std::future::pending;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use unanimo_conformance::{Checked, Options, Stop, Verdict};
use unanimo_proto::v1::Mode;
use unanimo_sdk::{Encode, Payload, PayloadError};

use crate::bench::{Bench, Methods, World};
use crate::checks;
use crate::report::Report;
use crate::subject::Subject;

/// Tests one action's handlers. See the [crate's page](crate).
#[derive(Debug)]
pub struct Harness<S> {
    options: Options,
    methods: Methods,
    effect: Option<String>,
    error: Option<PayloadError>,
    _subject: PhantomData<fn() -> S>,
}

/// Time for which an operation is asked again before it counts as not answered.
const PATIENCE: Duration = Duration::from_secs(10);

impl<S: Subject> Harness<S> {
    /// Tests an action of TCC: `try_`, `confirm` and `cancel`.
    pub fn tcc(action: impl Into<String>) -> Self {
        Self::new(action.into(), Mode::Tcc, Methods::TCC)
    }

    /// Tests an action of two-phase commit: `prepare`.
    pub fn two_phase(action: impl Into<String>) -> Self {
        Self::new(action.into(), Mode::TwoPhaseCommit, Methods::TWO_PHASE)
    }

    /// Tests an action as a step of sagas: `run` and `compensate`. A step is sent no Commit: it is
    /// committed by its yes, so that [`Self::effect`] is what `run` leaves.
    pub fn saga(action: impl Into<String>) -> Self {
        Self::new(action.into(), Mode::Saga, Methods::SAGA)
    }

    fn new(action: String, mode: Mode, methods: Methods) -> Self {
        let options = Options { mode, patience: PATIENCE, ..Options::new("", action) };
        Self { options, methods, effect: None, error: None, _subject: PhantomData }
    }

    /// The action's argument: one that it accepts.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
    pub fn payload(mut self, payload: impl Encode) -> Self {
        match Payload::of(&payload) {
            Ok(Payload { data, media_type }) => {
                self.options.payload = data;
                self.options.payload_type = media_type.into_owned();
            }
            Err(error) => self.error = Some(error),
        }
        self
    }

    /// An input that the action reads: what an earlier step of a saga answers under this name. It comes
    /// with `run` and with `compensate`.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
    pub fn input(mut self, name: impl Into<String>, input: impl Encode) -> Self {
        match Payload::of(&input) {
            Ok(Payload { data, media_type }) => {
                let name = name.into();
                self.options.input_types.insert(name.clone(), media_type.into_owned());
                self.options.inputs.insert(name, data);
            }
            Err(error) => self.error = Some(error),
        }
        self
    }

    /// An argument that the action refuses, so that refusals are tested too.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
    pub fn refused_payload(mut self, payload: impl Encode) -> Self {
        match Payload::of(&payload) {
            Ok(Payload { data, media_type }) => {
                self.options.refused_payload = Some(data);
                self.options.refused_payload_type = media_type.into_owned();
            }
            Err(error) => self.error = Some(error),
        }
        self
    }

    /// Names the text that [`Subject::observe`] returns after one committed transaction on fresh data. Without it a
    /// commit that does something else than it should is not found, as long as it does it always.
    #[must_use]
    pub fn effect(mut self, observed: impl Into<String>) -> Self {
        self.effect = Some(observed.into());
        self
    }

    /// Sets the time for which an operation is asked again before it counts as not answered. Default 10 s.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.options.patience = patience;
        self
    }

    /// Runs everything.
    ///
    /// # Panics
    /// A payload or an input cannot be encoded, or the first subject cannot be made: then there is nothing to
    /// test.
    pub async fn run(self) -> Report {
        let Self { mut options, methods, effect, error, .. } = self;
        assert!(error.is_none(), "a payload or an input cannot be encoded: {error:?}");
        let first = World::<S>::begin(&options, methods).await;
        let first = first.unwrap_or_else(|stop| panic!("there is nothing to test: {stop:?}"));
        options.participant = first.participant();
        drop(first);
        let action = options.action.clone();
        let bench = Bench::<S>::new(options.clone(), methods, effect);

        let once = checks::once(&bench).await;
        let accepted = !matches!(once, Err(Stop::Failed(_)));
        let mut handler =
            vec![checked(&checks::ONCE, once.as_ref().map(drop).map_err(Stop::clone))];
        match once {
            Ok(once) => {
                for check in checks::all::<S>() {
                    let result = (check.run)(Arc::clone(&bench), Arc::clone(&once)).await;
                    handler.push(checked(&check.described, result));
                }
            }
            Err(_) => {
                for check in checks::all::<S>() {
                    let why = "the handlers do not get through one transaction";
                    handler.push(checked(&check.described, Err(Stop::Skipped(why.to_owned()))));
                }
            }
        }
        let protocol = if accepted { protocol(&bench, options).await } else { None };
        Report { action, handler, protocol, notes: bench.notes() }
    }
}

/// The answers, by the list that holds for participants in any language.
async fn protocol<S: Subject>(
    bench: &Bench<S>,
    options: Options,
) -> Option<unanimo_conformance::Report> {
    let world = bench.world().await.ok()?;
    unanimo_conformance::run(world.target(), options, |_| {}, pending()).await.ok()
}

fn checked(described: &checks::Described, result: Result<(), Stop>) -> Checked {
    Checked {
        guarantee: described.name,
        text: described.text,
        why: described.why,
        verdict: match result {
            Ok(()) => Verdict::Passed,
            Err(Stop::Failed(seen)) => Verdict::Failed(seen),
            Err(Stop::Skipped(why)) => Verdict::Skipped(why),
        },
    }
}

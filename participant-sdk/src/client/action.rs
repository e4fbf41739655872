//! Actions of participants, described once, with the types that go in and come out.

use std::fmt;
use std::marker::PhantomData;

use unanimo_proto::v1::Mode;

use super::draft::spec;
use super::output::StepOutput;
use super::step::{Step, StepRef};
use crate::payload::{Encode, Payload};

/// An action of a participant, as its callers see it: the types of its payload `P`, of its output `O`
/// and of its inputs `I`, a tuple. It is written once, as a constant; each [`step`](Self::step) of it is
/// then checked by the compiler.
///
/// ```
/// use unanimo_sdk::Json;
/// use unanimo_sdk::client::StepAction;
///
/// /// Books a flight to a city. The output is the ticket's number.
/// const BOOK_FLIGHT: StepAction<Json<String>, Json<u64>> = StepAction::new("airline", "book");
///
/// /// Mails a text. It is given the ticket's number as its input `ticket`.
/// const MAIL: StepAction<Json<String>, (), (Json<u64>,)> =
///     StepAction::new("mailer", "mail").inputs(["ticket"]);
/// # let _ = (BOOK_FLIGHT, MAIL);
/// ```
#[derive(Debug)]
pub struct StepAction<P, O, I: Inputs = ()> {
    participant: &'static str,
    action: &'static str,
    mode: Mode,
    inputs: I::Names,
    types: PhantomData<fn(P) -> O>,
}

impl<P, O> StepAction<P, O> {
    /// Describes an action in the mode of its transaction: in a saga, a step that is done for good and
    /// compensated on ABORT.
    #[must_use]
    pub const fn new(participant: &'static str, action: &'static str) -> Self {
        Self { participant, action, mode: Mode::Unspecified, inputs: [], types: PhantomData }
    }

    /// Describes an action in the mode TCC. In a saga it is *reserved*: it is confirmed when the saga
    /// commits, and cancelled when it aborts.
    #[must_use]
    pub const fn tcc(participant: &'static str, action: &'static str) -> Self {
        Self { participant, action, mode: Mode::Tcc, inputs: [], types: PhantomData }
    }

    /// Adds the names by which the participant knows its inputs, in the order of `I`: outputs of
    /// earlier steps. 1 to 64 bytes each of the alphabet of names.
    #[must_use]
    pub const fn inputs<I: Inputs>(self, names: I::Names) -> StepAction<P, O, I> {
        let Self { participant, action, mode, .. } = self;
        StepAction { participant, action, mode, inputs: names, types: PhantomData }
    }
}

impl<P> StepAction<P, ()> {
    /// Describes an action in two-phase commit, which has no output. In a saga its work is held
    /// prepared, with its locks, until the saga is decided: such a step should come late.
    #[must_use]
    pub const fn two_phase(participant: &'static str, action: &'static str) -> Self {
        Self { participant, action, mode: Mode::TwoPhaseCommit, inputs: [], types: PhantomData }
    }
}

impl<P: Encode, O, I: Inputs> StepAction<P, O, I> {
    /// Makes a step of it. `branch_id` is unique within the transaction, of the same rule as the gid.
    /// An action with inputs is then told [whose](Step::inputs) they are.
    #[expect(clippy::needless_pass_by_value, reason = "a payload is made where it is given")]
    pub fn step<'s>(&self, branch_id: impl Into<String>, payload: P) -> Step<'s, O, I> {
        let (participant, action) = (self.participant.to_owned(), self.action.to_owned());
        let spec = spec(branch_id.into(), participant, action, Payload::of(&payload));
        let spec = spec.map(|mut spec| {
            spec.mode = self.mode.into();
            spec
        });
        Step::new(spec, self.inputs)
    }
}

impl<P, O, I: Inputs> StepAction<P, O, I> {
    /// Names the output of a step of it by the step's `branch_id`, where no [`StepRef`] is at hand: in a
    /// program that was started again, or of a step in a [child](super::Child).
    pub fn output_of(&self, branch_id: impl Into<String>) -> StepOutput<O> {
        StepOutput::new(branch_id.into())
    }
}

impl<P, O, I: Inputs> Clone for StepAction<P, O, I> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P, O, I: Inputs> Copy for StepAction<P, O, I> {}

/// Types of an action's inputs: a tuple of up to eight.
pub trait Inputs: sealed::Sealed {
    /// Their names.
    type Names: AsRef<[&'static str]> + Copy + fmt::Debug;
    /// The steps whose outputs they are.
    type Steps<'a, 's>
    where
        's: 'a;

    #[doc(hidden)]
    fn refs<'a, 's: 'a>(steps: Self::Steps<'a, 's>) -> Vec<sealed::Ref<'a>>;
}

pub(super) mod sealed {
    /// A step that is referred to.
    #[derive(Debug)]
    pub struct Ref<'a> {
        pub(in super::super) branch_id: &'a str,
        pub(in super::super) tx_id: Option<&'a str>,
    }

    #[expect(unnameable_types, reason = "nobody else implements it")]
    pub trait Sealed {}
}

macro_rules! inputs {
    ($count:literal: $($kind:ident $step:ident),*) => {
        impl<$($kind: 'static),*> sealed::Sealed for ($($kind,)*) {}

        impl<$($kind: 'static),*> Inputs for ($($kind,)*) {
            type Names = [&'static str; $count];
            type Steps<'a, 's> = ($(&'a StepRef<'s, $kind>,)*) where 's: 'a;

            fn refs<'a, 's: 'a>(steps: Self::Steps<'a, 's>) -> Vec<sealed::Ref<'a>> {
                let ($($step,)*) = steps;
                vec![$($step.as_ref()),*]
            }
        }
    };
}

inputs!(0:);
inputs!(1: A a);
inputs!(2: A a, B b);
inputs!(3: A a, B b, C c);
inputs!(4: A a, B b, C c, D d);
inputs!(5: A a, B b, C c, D d, E e);
inputs!(6: A a, B b, C c, D d, E e, F f);
inputs!(7: A a, B b, C c, D d, E e, F f, G g);
inputs!(8: A a, B b, C c, D d, E e, F f, G g, H h);

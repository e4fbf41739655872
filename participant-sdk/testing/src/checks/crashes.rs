//! The process dies in the middle of a call.
//!
//! A crash that comes before a call begins or after its end proves little, and how long a call takes differs
//! from run to run. So each check counts the crashes that ended a call which was under way, and one that had
//! none is not passed. Where a handler is called one crash is certain to be such: the operation stands still
//! between its handler and the commit of its work until the process has ended.

use std::fmt;
use std::time::{Duration, Instant};

use unanimo_conformance::{Branch, End, Session, Stop};

use super::Once;
use crate::bench::{Bench, World, named};
use crate::subject::Subject;

/// At how many moments of a call it crashes by the clock: up to after its answer, which then is lost.
const MOMENTS: u32 = 6;

/// The moments are spread over so many times what a call took.
const BEYOND: f64 = 1.3;

/// Rounds of moments at most, where no crash has met the call.
const ROUNDS: u32 = 5;

/// The call that is crashed in.
#[derive(Clone, Copy)]
enum Call {
    Prepare,
    Commit,
    Cancel,
}

/// The moment of a crash.
#[derive(Clone, Copy)]
enum Moment {
    /// Between what came before the call and the call.
    Before,
    /// Between its handler and the commit of its work.
    AtCommit,
    /// So long after the call was sent.
    After(Duration),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("just before"),
            Self::AtCommit => f.write_str("between the handler and the commit of"),
            Self::After(time) => write!(f, "{time:?} into"),
        }
    }
}

impl Call {
    async fn send(self, session: &Session, branch: &Branch) -> Result<Option<End>, Stop> {
        match self {
            Self::Prepare => session.prepare(branch).await.map(|_| None),
            Self::Commit => session.commit(branch).await.map(Some),
            Self::Cancel => session.cancel(branch).await.map(Some),
        }
    }

    /// Name of its operation.
    fn operation(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Commit => "commit",
            Self::Cancel => "cancel",
        }
    }
}

/// Crashes of a check, and how many of them ended a call that was under way.
struct Crashes<'b, S: Subject> {
    bench: &'b Bench<S>,
    call: Call,
    method: &'static str,
    met: u32,
}

impl<'b, S: Subject> Crashes<'b, S> {
    fn new(bench: &'b Bench<S>, call: Call) -> Self {
        let methods = bench.methods;
        let method = match call {
            Call::Prepare => methods.prepare,
            Call::Commit => methods.commit,
            Call::Cancel => methods.cancel,
        };
        Self { bench, call, method, met: 0 }
    }

    /// Returns the moments of a round. The first one has all of them; another one follows only where the
    /// clock had to meet the call, and did not.
    async fn moments(&self, round: u32) -> Result<Vec<Moment>, Stop> {
        if round > 0 && (self.met > 0 || round >= ROUNDS) {
            return Ok(Vec::new());
        }
        let duration = self.duration().await?;
        let spread = (0..MOMENTS)
            .map(|moment| duration.mul_f64(BEYOND * f64::from(moment) / f64::from(MOMENTS - 1)));
        let mut moments: Vec<Moment> = spread.map(Moment::After).collect();
        if round == 0 {
            moments.push(Moment::Before);
            let has_handler = matches!(self.call, Call::Prepare) || !self.bench.is_two_phase();
            moments.extend(has_handler.then_some(Moment::AtCommit));
        }
        Ok(moments)
    }

    /// Time of the call when nothing is in its way.
    async fn duration(&self) -> Result<Duration, Stop> {
        let world = self.bench.world().await?;
        let branch = self.ready(&world).await?;
        let started = Instant::now();
        self.call.send(&world.session, &branch).await?;
        Ok(started.elapsed())
    }

    async fn ready(&self, world: &World<S>) -> Result<Branch, Stop> {
        match self.call {
            Call::Prepare => Ok(world.session.branch()),
            Call::Commit | Call::Cancel => world.prepared().await,
        }
    }

    /// Crashes at one moment of the call, which is asked again until it is answered.
    async fn crash_in(&mut self, world: &World<S>, moment: Moment) -> Result<Branch, Stop> {
        let (call, method) = (self.call, self.method);
        let branch = self.ready(world).await?;
        let (session, sent) = (world.session.clone(), branch.clone());
        if let Moment::Before = moment {
            world.crash(None).await?;
        }
        let halted =
            matches!(moment, Moment::AtCommit).then(|| world.interruptions.halt(call.operation()));
        let calling = tokio::spawn(async move { call.send(&session, &sent).await });
        if let Moment::After(time) = moment {
            tokio::time::sleep(time).await;
            world.crash(None).await?;
        }
        if let Some(mut halted) = halted {
            let patience = self.bench.options.patience;
            if tokio::time::timeout(patience, halted.reached()).await != Ok(true) {
                return Err(Stop::Failed(format!("{method} did not run to its end")));
            }
            world.crash(Some(halted)).await?;
        }
        let answered = calling.await.map_err(|error| Stop::Failed(error.to_string()))?;
        answered.map_err(|stop| named(method, stop))?;
        self.met += u32::from(world.has_cut_off());
        // The answer may have come before the crash, and be lost: then the new process is asked.
        match call.send(&world.session, &branch).await.map_err(|stop| named(method, stop))? {
            None | Some(End::Done) => Ok(branch),
            Some(end) => {
                let text = format!("after a crash {moment} it, the same call was answered {end}");
                Err(Stop::Failed(text))
            }
        }
    }

    /// Tells of a check without a crash that proves something.
    fn end(self) -> Result<(), Stop> {
        if self.met > 0 {
            return Ok(());
        }
        let call = self.call.operation();
        Err(Stop::Skipped(format!(
            "no crash met a {call} that was under way: each had ended before"
        )))
    }
}

pub(super) async fn prepare<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let mut crashes = Crashes::new(bench, Call::Prepare);
    let method = crashes.method;
    for round in 0..=ROUNDS {
        for moment in crashes.moments(round).await? {
            for commits in [true, false] {
                let world = bench.world().await?;
                let branch = crashes.crash_in(&world, moment).await?;
                if commits {
                    world.commit(&branch).await?;
                    let words = format!(
                        "after a crash {moment} {method}, Prepare again and Commit, the effect is \
                         not that of one:"
                    );
                    world.compare(("once", &once.after), "with the crash", words).await?;
                } else {
                    world.cancel(&branch).await?;
                    let words = format!(
                        "after a crash {moment} {method}, Prepare again and Cancel, something is \
                         left:"
                    );
                    world.compare(("before", &once.before), "after", words).await?;
                }
            }
        }
    }
    crashes.end()
}

pub(super) async fn commit<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    bench.needs_commit()?;
    let mut crashes = Crashes::new(bench, Call::Commit);
    let method = crashes.method;
    for round in 0..=ROUNDS {
        for moment in crashes.moments(round).await? {
            let world = bench.world().await?;
            crashes.crash_in(&world, moment).await?;
            let words = format!("after a crash {moment} {method}, the effect is not that of one:");
            world.compare(("once", &once.after), "with the crash", words).await?;
        }
    }
    crashes.end()
}

pub(super) async fn cancel<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let mut crashes = Crashes::new(bench, Call::Cancel);
    let method = crashes.method;
    for round in 0..=ROUNDS {
        for moment in crashes.moments(round).await? {
            let world = bench.world().await?;
            crashes.crash_in(&world, moment).await?;
            let words = format!("after a crash {moment} {method}, something is left:");
            world.compare(("before", &once.before), "after", words).await?;
        }
    }
    crashes.end()
}

//! The process dies in the middle of a call.

use std::fmt;
use std::time::{Duration, Instant};

use unanimo_conformance::{Branch, End, Session, Stop};

use super::Once;
use crate::bench::{Bench, World, named};
use crate::subject::Subject;

/// At how many moments of a call it crashes, besides the one before its beginning: up to after its
/// answer, which then is lost.
const MOMENTS: u32 = 6;

/// The moments are spread over so many times what a call took.
const BEYOND: f64 = 1.3;

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
    /// So long after the call was sent.
    After(Duration),
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Before => f.write_str("just before"),
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
}

/// Time of the call when nothing is in its way.
async fn duration<S: Subject>(bench: &Bench<S>, call: Call) -> Result<Duration, Stop> {
    let world = bench.world().await?;
    let branch = ready(&world, call).await?;
    let started = Instant::now();
    call.send(&world.session, &branch).await?;
    Ok(started.elapsed())
}

async fn ready<S: Subject>(world: &World<S>, call: Call) -> Result<Branch, Stop> {
    match call {
        Call::Prepare => Ok(world.session.branch()),
        Call::Commit | Call::Cancel => world.prepared().await,
    }
}

/// Crashes at one moment of the call, which is asked again until it is answered.
async fn crash_in<S: Subject>(
    world: &World<S>,
    method: &str,
    call: Call,
    moment: Moment,
) -> Result<Branch, Stop> {
    let branch = ready(world, call).await?;
    let (session, sent) = (world.session.clone(), branch.clone());
    if let Moment::Before = moment {
        world.crash().await?;
    }
    let calling = tokio::spawn(async move { call.send(&session, &sent).await });
    if let Moment::After(time) = moment {
        tokio::time::sleep(time).await;
        world.crash().await?;
    }
    let answered = calling.await.map_err(|error| Stop::Failed(error.to_string()))?;
    answered.map_err(|stop| named(method, stop))?;
    // The answer may have come before the crash, and be lost: then the new process is asked.
    match call.send(&world.session, &branch).await.map_err(|stop| named(method, stop))? {
        None | Some(End::Done) => Ok(branch),
        Some(end) => {
            let text = format!("after a crash {moment} it, the same call was answered {end}");
            Err(Stop::Failed(text))
        }
    }
}

fn moments(duration: Duration) -> impl Iterator<Item = Moment> {
    let spread = (0..MOMENTS)
        .map(move |moment| duration.mul_f64(BEYOND * f64::from(moment) / f64::from(MOMENTS - 1)));
    std::iter::once(Moment::Before).chain(spread.map(Moment::After))
}

pub(super) async fn prepare<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let method = bench.methods.prepare;
    for moment in moments(duration(bench, Call::Prepare).await?) {
        for commits in [true, false] {
            let world = bench.world().await?;
            let branch = crash_in(&world, method, Call::Prepare, moment).await?;
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
    Ok(())
}

pub(super) async fn commit<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    bench.needs_commit()?;
    let method = bench.methods.commit;
    for moment in moments(duration(bench, Call::Commit).await?) {
        let world = bench.world().await?;
        crash_in(&world, method, Call::Commit, moment).await?;
        let words = format!("after a crash {moment} {method}, the effect is not that of one:");
        world.compare(("once", &once.after), "with the crash", words).await?;
    }
    Ok(())
}

pub(super) async fn cancel<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let method = bench.methods.cancel;
    for moment in moments(duration(bench, Call::Cancel).await?) {
        let world = bench.world().await?;
        crash_in(&world, method, Call::Cancel, moment).await?;
        let words = format!("after a crash {moment} {method}, something is left:");
        world.compare(("before", &once.before), "after", words).await?;
    }
    Ok(())
}

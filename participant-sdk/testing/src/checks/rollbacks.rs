//! A local transaction that is rolled back between its handler and its commit.

use unanimo_conformance::{Stop, Vote};

use super::Once;
use crate::bench::{Bench, Methods, World};
use crate::subject::Subject;

/// Runs Prepare's handler, and rolls its work back.
async fn rolled_back<S: Subject>(
    bench: &Bench<S>,
) -> Result<(World<S>, unanimo_conformance::Branch, bytes::Bytes), Stop> {
    let world = bench.world().await?;
    let branch = world.session.branch();
    world.interruptions.arm("prepare");
    world.session.prepare_and_leave(&branch, bench.options.patience).await;
    match world.interruptions.interrupted() {
        Some(output) => Ok((world, branch, output)),
        None => Err(Stop::Failed(format!("{} did not run to its end", bench.methods.prepare))),
    }
}

pub(super) async fn prepare<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let method = bench.methods.prepare;
    let (world, branch, first) = rolled_back(bench).await?;
    let words = format!(
        "{method} writes outside the connection that it is given, through its own pool say: after \
         its local transaction was rolled back, its effect was still there:"
    );
    world.compare(("before", &once.before), "after", words).await?;
    match world.prepare(&branch).await? {
        Vote::Prepared(output) => {
            if first != output.data && !bench.is_two_phase() {
                bench.note(format!(
                    "{method} answers another output each time it runs. That is no fault, for only \
                     the one that is committed is ever told; but whatever it told others of the one \
                     before (an id, say) means nothing"
                ));
            }
        }
        vote => {
            let text = format!(
                "{method}, run again after its local transaction was rolled back, answered {vote}"
            );
            return Err(Stop::Failed(text));
        }
    }
    world.commit(&branch).await?;
    let words = format!("{method} was rolled back and run again, with another effect than once:");
    world.compare(("once", &once.after), "twice", words).await?;

    let (world, branch, _) = rolled_back(bench).await?;
    world.cancel(&branch).await?;
    let words = format!("{method} was rolled back, and Cancel came: something was left:");
    world.compare(("before", &once.before), "after", words).await
}

fn has_handlers<S: Subject>(bench: &Bench<S>) -> Result<(), Stop> {
    match bench.is_two_phase() {
        true => Err(Stop::Skipped("phase two has no handler in two-phase commit".to_owned())),
        false => Ok(()),
    }
}

pub(super) async fn commit<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    has_handlers(bench)?;
    bench.needs_commit()?;
    let world = bench.world().await?;
    let branch = world.prepared().await?;
    world.interruptions.arm("commit");
    // Asked again until it is done, as a coordinator does.
    world.commit(&branch).await?;
    let words = "`confirm` writes outside the connection that it is given: rolled back and run again, \
                 it had another effect than once:";
    world.compare(("once", &once.after), "twice", words).await
}

pub(super) async fn cancel<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    has_handlers(bench)?;
    let world = bench.world().await?;
    let branch = world.prepared().await?;
    world.interruptions.arm("cancel");
    world.cancel(&branch).await?;
    let Methods { prepare, cancel, .. } = bench.methods;
    let words = format!(
        "{cancel} writes outside the connection that it is given, or does not undo what {prepare} did: \
         rolled back and run again, it left:"
    );
    world.compare(("before", &once.before), "after", words).await
}

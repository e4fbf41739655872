//! Effects that are left, and their number.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use unanimo_conformance::{Branch, Stop, Vote};

use super::Once;
use crate::bench::{self, Bench, Methods, named};
use crate::subject::Subject;

/// Callers that send the same at once.
const TWINS: usize = 8;

/// No JSON, no Protocol Buffers, no UTF-8.
const GARBAGE: &[u8] = b"\xff\xfe{\x00garbage";

/// One transaction without anything in its way: what all others are compared with.
pub(crate) async fn once<S: Subject>(bench: &Bench<S>) -> Result<Arc<Once>, Stop> {
    let world = bench.world().await?;
    let before = world.observe().await?;
    let branch = world.prepared().await?;
    world.commit(&branch).await?;
    if let Some(effect) = &bench.effect {
        let Methods { prepare, commit, .. } = bench.methods;
        let words = format!("{prepare} and {commit} do not do together what they should:");
        world.compare(("expected", effect), "after", words).await?;
    }
    let after = world.observe().await?;
    // What is left is another check's; that it is answered at all, everything else needs.
    let world = bench.world().await?;
    let branch = world.prepared().await?;
    world.cancel(&branch).await?;
    Ok(Arc::new(Once { before, after }))
}

pub(super) async fn visible<S: Subject>(_: &Bench<S>, once: &Once) -> Result<(), Stop> {
    if once.before.is_empty() && once.after.is_empty() {
        let text = "`observe` shows nothing: only answers are compared, and no data";
        return Err(Stop::Skipped(text.to_owned()));
    }
    if once.before == once.after {
        let text = "Prepare and Commit change nothing that `observe` shows";
        return Err(Stop::Skipped(text.to_owned()));
    }
    Ok(())
}

pub(super) async fn cancel_undoes<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let branch = world.prepared().await?;
    world.cancel(&branch).await?;
    let before = ("before", once.before.as_str());
    let Methods { prepare, cancel, .. } = bench.methods;
    let words = match bench.is_two_phase() {
        false => format!("{cancel} does not undo what {prepare} did:"),
        true => format!(
            "after the prepared transaction was rolled back, something was still there that \
             {prepare} did: it writes outside the connection that it is given, through its own pool \
             say:"
        ),
    };
    world.compare(before, "after", words).await
}

pub(super) async fn duplicates<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let branch = world.prepared().await?;
    for _ in 0..2 {
        world.prepare(&branch).await?;
    }
    for _ in 0..3 {
        world.commit(&branch).await?;
        world.prepare(&branch).await?;
    }
    let expected = ("once", once.after.as_str());
    let words = "Prepare and Commit, sent several times, had another effect than once:";
    world.compare(expected, "several times", words).await?;

    let world = bench.world().await?;
    let branch = world.prepared().await?;
    for _ in 0..3 {
        world.cancel(&branch).await?;
        world.prepare(&branch).await?;
    }
    let before = ("before", once.before.as_str());
    world.compare(before, "after", "Cancel, sent several times, undid more than Prepare did:").await
}

pub(super) async fn duplicates_at_once<S: Subject>(
    bench: &Bench<S>,
    once: &Once,
) -> Result<(), Stop> {
    for commits in [true, false] {
        let world = bench.world().await?;
        let branch = world.session.branch();
        let methods = bench.methods;
        let votes = world.session.at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move { session.prepare(&branch).await }
        });
        votes.await.map_err(|stop| named(methods.prepare, stop))?;
        let ends = world.session.at_once(TWINS, |session, _| {
            let branch = branch.clone();
            async move {
                match commits {
                    true => bench::commit(&session, &branch).await,
                    false => session.cancel(&branch).await,
                }
            }
        });
        let method = if commits { methods.commit } else { methods.cancel };
        ends.await.map_err(|stop| named(method, stop))?;
        if commits {
            let words = "Prepare and Commit, each sent eight times at once, had another effect than \
                         once:";
            world.compare(("once", &once.after), "eight times", words).await?;
        } else {
            let words = "Prepare and Cancel, each sent eight times at once, left something:";
            world.compare(("before", &once.before), "after", words).await?;
        }
    }
    Ok(())
}

pub(super) async fn cancel_first<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let branch = world.session.branch();
    world.cancel(&branch).await?;
    world.prepare(&branch).await?;
    world.cancel(&branch).await?;
    let words = "Cancel, and a Prepare that came after it, changed something:";
    world.compare(("before", &once.before), "after", words).await
}

pub(super) async fn refusal<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let Some(payload) = bench.options.refused_payload.clone() else {
        return Err(Stop::Skipped("no `refused_payload` was given".to_owned()));
    };
    let world = bench.world().await?;
    let branch = world.session.branch().with_refused(&payload, &bench.options);
    let method = bench.methods.prepare;
    match world.prepare(&branch).await? {
        Vote::Refused(_) => {}
        vote => {
            let text = format!("{method} answered `refused_payload` {vote}, expected a refusal");
            return Err(Stop::Failed(text));
        }
    }
    let words = format!(
        "{method} refused, and though its local transaction was undone, something that it did is \
         still there: it writes outside the connection that it is given, through its own pool say, \
         or ended the transaction:"
    );
    world.compare(("before", &once.before), "after", words).await?;
    world.cancel(&branch).await?;
    let words = "Cancel of a refused branch changed something:";
    world.compare(("before", &once.before), "after", words).await
}

pub(super) async fn unreadable<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let branch = Branch { payload: Bytes::from_static(GARBAGE), ..world.session.branch() };
    let vote = world.prepare(&branch).await?;
    if vote.is_prepared() {
        // Bytes as they are may be what the action takes.
        world.cancel(&branch).await?;
    }
    let words = format!("a payload of garbage was answered {vote}, and changed something:");
    world.compare(("before", &once.before), "after", words).await
}

/// As a step after a saga's pivot is asked for: nobody can undo it any more.
pub(super) async fn must_succeed<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let good = world.session.branch().that_must_succeed();
    let method = bench.methods.prepare;
    if let Some(payload) = bench.options.refused_payload.clone() {
        let refused = good.clone().with_refused(&payload, &bench.options);
        let vote = world.prepare(&refused).await?;
        let words =
            format!("{method} answered {vote} to work that must succeed, and changed something:");
        world.compare(("before", &once.before), "after", words).await?;
    }
    for _ in 0..2 {
        let vote = world.prepare(&good).await?;
        if !vote.is_prepared() {
            let text = format!("{method} answered {vote} to work that must succeed, and can");
            return Err(Stop::Failed(text));
        }
    }
    world.commit(&good).await?;
    let words = format!("{method} of work that must succeed had another effect than once:");
    world.compare(("once", &once.after), "after", words).await
}

pub(super) async fn missing_input<S: Subject>(bench: &Bench<S>, once: &Once) -> Result<(), Stop> {
    if bench.options.inputs.is_empty() {
        return Err(Stop::Skipped("no `input` was given".to_owned()));
    }
    let world = bench.world().await?;
    let whole = world.session.branch();
    let branch = Branch { inputs: BTreeMap::new(), ..whole.clone() };
    let vote = world.prepare(&branch).await?;
    if vote.is_prepared() {
        // It may do without.
        world.cancel(&whole).await?;
    }
    let words = format!("a Prepare without inputs was answered {vote}, and changed something:");
    world.compare(("before", &once.before), "after", words).await
}

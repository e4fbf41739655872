//! Transactions beside each other.

use unanimo_conformance::{Branch, Session, Stop, Vote};

use super::Once;
use crate::bench::{self, Bench, named};
use crate::subject::Subject;

/// Transactions that are made at once, if there is enough for so many.
const AT_ONCE: usize = 4;

/// Rounds: it takes luck to meet.
const ROUNDS: usize = 3;

pub(super) async fn cancel_beside_commit<S: Subject>(
    bench: &Bench<S>,
    once: &Once,
) -> Result<(), Stop> {
    if bench.is_two_phase() {
        let text = "in two-phase commit the database keeps transactions apart";
        return Err(Stop::Skipped(text.to_owned()));
    }
    for cancel_first in [true, false] {
        let world = bench.world().await?;
        let (one, two) = (world.prepared().await?, world.session.branch());
        if !world.prepare(&two).await?.is_prepared() {
            let text = "there is not enough for two transactions at once";
            return Err(Stop::Skipped(text.to_owned()));
        }
        if cancel_first {
            world.cancel(&two).await?;
            world.commit(&one).await?;
        } else {
            world.commit(&one).await?;
            world.cancel(&two).await?;
        }
        let words = "of two prepared transactions one was committed and one cancelled; the effect is \
                     not that of the committed one alone:";
        world.compare(("alone", &once.after), "beside", words).await?;
    }
    Ok(())
}

pub(super) async fn add_up<S: Subject>(bench: &Bench<S>, _: &Once) -> Result<(), Stop> {
    let world = bench.world().await?;
    let mut count = 0;
    while count < AT_ONCE {
        let branch = world.session.branch();
        if !world.prepare(&branch).await?.is_prepared() {
            break;
        }
        world.commit(&branch).await?;
        count += 1;
    }
    if count < 2 {
        return Err(Stop::Skipped("there is not enough for two transactions".to_owned()));
    }
    let expected = world.observe().await?;
    let methods = bench.methods;
    for _ in 0..ROUNDS {
        let world = bench.world().await?;
        let transactions = world.session.at_once(count, |session, _| async move {
            let branch = session.branch();
            whole(&session, &branch, methods.prepare, methods.commit).await
        });
        transactions.await?;
        let words = format!(
            "{count} transactions at once had another effect than one after the other; is something \
             read, changed in the program and written back, without a lock?"
        );
        world.compare(("one by one", &expected), "at once", words).await?;
    }
    Ok(())
}

async fn whole(
    session: &Session,
    branch: &Branch,
    prepare: &str,
    commit: &str,
) -> Result<(), Stop> {
    match session.prepare(branch).await.map_err(|stop| named(prepare, stop))? {
        Vote::Prepared(_) => {}
        vote @ (Vote::Refused(_) | Vote::ReadOnly) => {
            let text = format!(
                "{prepare} answered {vote} beside other transactions, and voted yes for as many one \
                 after the other"
            );
            return Err(Stop::Failed(text));
        }
    }
    let end = bench::commit(session, branch).await.map_err(|stop| named(commit, stop))?;
    match end.heuristic() {
        None => Ok(()),
        Some(_) => {
            Err(Stop::Failed(format!("Commit beside other transactions was answered {end}")))
        }
    }
}

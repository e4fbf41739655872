//! A database that has lost what it had acknowledged, under a coordinator that holds it in memory.

use unanimo_proto::v1::{CommitBranch, CommitTransactionRequest, Mode, Outcome};
use unanimo_tests::postgres::Server;

use super::{World, branch, config, sqlite_url};
use crate::store::execute;

/// Keeps the rows as they are.
const SAVE: &str = "CREATE TABLE saved AS SELECT * FROM transactions";

/// Brings the rows back. Whoever believed them would abort at once: the deadline is over.
const BRING_BACK: &str = "UPDATE transactions SET version = saved.version, write_id = saved.write_id,
    phase = saved.phase, decided_ms = saved.decided_ms, progress = saved.progress, more = saved.more,
    deadline_ms = saved.created_ms
    FROM saved WHERE saved.tx_id = transactions.tx_id";

const DELETE: &str =
    "DELETE FROM outputs; DELETE FROM branches; DELETE FROM events; DELETE FROM transactions";

/// S1, S4, S10: a client was told that it is committed, and the database has lost that. No branch is cancelled, and
/// the outcome stays.
#[tokio::test]
async fn s1_s4_an_owner_that_knows_more_than_its_row_writes_it_again() {
    for url in [sqlite_url(), Server::shared().database().await] {
        for lose in [BRING_BACK, DELETE] {
            let world = World::start(config(&url)).await;
            let gid = format!("g-{}", lose.len());
            let begun = world.begin(&gid, Mode::Tcc).await.unwrap();
            world.execute(&begun.tx_id, branch("a", "output-3")).await.unwrap();
            world.execute(&begun.tx_id, branch("b", "ok")).await.unwrap();
            execute(&url, &format!("DROP TABLE IF EXISTS saved; {SAVE}")).await;
            world.p.hold(true);
            let listed = ["a", "b"].map(|id| CommitBranch { branch_id: id.into(), vote: 0 });
            let commit = CommitTransactionRequest {
                tx_id: begun.tx_id.clone(),
                branches: listed.to_vec(),
                ..Default::default()
            };
            let told = world.client().commit_transaction(commit).await.unwrap().into_inner();
            let told = told.result.unwrap();
            assert_eq!(told.outcome(), Outcome::Committed);
            execute(&url, lose).await;
            world.p.hold(false);
            let shown = world.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
            assert_eq!(shown.outcome(), Outcome::Committed);
            for id in ["a", "b"] {
                assert_eq!(world.p.calls(&begun.tx_id, id), ["prepare", "commit"], "{id}");
            }
            // As it is stored, too.
            let world = world.crash_and_restart().await;
            let shown = world.get(&gid).await;
            assert_eq!((shown.outcome(), shown.ended_at.is_some()), (Outcome::Committed, true));
            world.running.stop().await.unwrap();
        }
    }
}

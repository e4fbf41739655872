//! A database that has lost what it had acknowledged, under a coordinator that holds it in memory.

use unanimo_core::TxId;
use unanimo_proto::v1::{CommitBranch, CommitTransactionRequest, Mode, Outcome};
use unanimo_tests::postgres::Server;

use super::{World, branch, config, sqlite_url};
use crate::store::{execute, rows};

/// Keeps the names of the rows.
const SAVE: &str = "CREATE TABLE saved AS SELECT tx_id, follows FROM log";

/// Brings back what there was.
const BRING_BACK: &str = "DELETE FROM log WHERE NOT EXISTS (
    SELECT 1 FROM saved WHERE saved.tx_id = log.tx_id AND saved.follows = log.follows)";

const DELETE: &str = "DELETE FROM log; DELETE FROM gids; DELETE FROM parked";

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
            // Whoever believed what is there would abort at once: the deadline is over.
            let id = TxId(begun.tx_id.parse().unwrap());
            rows::edit(&url, id, |body| rows::expire(body)).await;
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

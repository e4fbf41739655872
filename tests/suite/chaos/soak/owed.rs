//! A participant that comes back, and to which very much is owed: the healthy are served as before meanwhile.

use std::time::Duration;

use tokio::task::JoinSet;
use unanimo_sdk::{Client, Json, Outcome};
use unanimo_tests::postgres::Server;
use unanimo_tests::scripted::{Mood, Scripted};
use unanimo_tests::wait::until;

use super::super::{Mode, World, bank::Bank, process};
use super::load::Load;
use super::{SLOWER_MAX, participant, say};

/// Transactions whose Cancel is owed.
const OWED: usize = 2_000;

/// Begins them all, and then rolls them back. The participant does its work, and fails in each Cancel.
async fn owe(client: &Client, owed: &Scripted) {
    owed.set_mood(Mood::FailingInPhaseTwo);
    let mut working = JoinSet::new();
    let mut begun = Vec::with_capacity(OWED);
    for n in 0..OWED {
        let draft = client.tcc(gid(n));
        working.spawn(async move {
            let mut transaction = draft.begin().await?;
            let done = transaction.execute("one", "owed", "ok", Json("one")).await;
            done.map(|_| transaction)
        });
        if working.len() == 64 {
            begun.push(working.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    begun.extend(working.join_all().await.into_iter().map(Result::unwrap));
    let mut undoing = JoinSet::new();
    for transaction in begun {
        undoing.spawn(async move { transaction.rollback().await });
    }
    for rolled_back in undoing.join_all().await {
        assert!(rolled_back.as_ref().is_ok_and(Outcome::is_aborted), "{rolled_back:?}");
    }
}

fn gid(n: usize) -> String {
    format!("owed-{n}")
}

fn cancels(owed: &Scripted) -> usize {
    owed.seen().iter().filter(|seen| seen.operation == "cancel").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "compares times, and so wants the machine for itself: cargo xtask soak"]
async fn l3_the_healthy_are_served_as_before_while_very_much_goes_out_to_another() {
    let server = Server::start();
    let banks = [Bank::open("bank-a", Mode::Tcc).await, Bank::open("bank-b", Mode::Tcc).await];
    let owed = Scripted::default();
    let endpoint = owed.serve().await;
    let healthy = banks.iter().flat_map(|bank| participant(&bank.name, &bank.endpoint));
    let arguments = healthy.chain(participant("owed", &endpoint));
    let arguments = process::arguments(&server.database().await, arguments, "60s");
    let coordinator = process::coordinator_under(arguments, Vec::new()).await;
    let mut world = World::around(Mode::Tcc, banks, coordinator);

    let load = Load::start(&world.client);
    tokio::time::sleep(Duration::from_secs(10)).await;
    load.enough().await;
    load.pause();
    owe(&world.client, &owed).await;
    // As it was an outage of some time: nothing is sent but now and then.
    tokio::time::sleep(Duration::from_secs(5)).await;
    load.disturbed();
    let before = cancels(&owed);
    owed.set_mood(Mood::Well);
    load.enough().await;
    let (done, latencies) = load.stop().await;
    let meanwhile = cancels(&owed) - before;
    say(&format!("{meanwhile} of {OWED} Cancels that were owed went out meanwhile"));
    assert!(meanwhile >= OWED / 10, "nearly nothing went out: {meanwhile}");
    let slower = latencies.tell();
    for n in 0..OWED {
        until("the end of what was owed", async || {
            let found = world.client.find(gid(n)).await;
            matches!(found, Ok(Outcome::Aborted(aborted)) if aborted.ended).then_some(())
        })
        .await;
    }
    world.done = done;
    world.check().await;
    assert!(slower <= SLOWER_MAX, "L3: p99 {slower:.2} times as long, at most {SLOWER_MAX}");
}

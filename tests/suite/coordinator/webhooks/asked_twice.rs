//! Dead letters that are asked for again while they are being sent.

use super::*;

/// Second time that an operator asks, while the first dead letter is being sent.
#[derive(Clone, Copy, Debug)]
enum Asks {
    Not,
    All,
    /// For the second dead letter alone.
    Second,
}

fn gids(of: &[Message]) -> Vec<String> {
    of.iter().map(|message| message.told().0).collect()
}

/// Gives three events up, and has them sent again: the first one is answered with `status` after the second time that an
/// operator asks. Returns the gids of what is taken by then, and of the dead letters that stay.
async fn asked_twice(database: &str, status: u16, asks: Asks) -> (Vec<String>, Vec<String>) {
    let receiver = Receiver::start().await;
    receiver.set(Way::Status(500));
    let more = "timeout = \"60s\"\ngive-up-after = \"1s\"";
    let file = file(&entry("a", &receiver, &[SECRET], more));
    let world = World::start(with(config(database), &file)).await;
    begins(&world, "a").await;
    for gid in ["g-1", "g-2", "g-3"] {
        world.submit(tcc(gid, &["ok"])).await.unwrap();
    }
    let dead = until("dead letters", async || {
        Some(dead_letters(&world, "a").await).filter(|dead| dead.len() == 3)
    })
    .await;
    receiver.set(Way::Wait(status));
    assert_eq!(redeliver(&world, "a", 0).await, 3);
    so("the first one to be sent", async || receiver.waiting.lock().unwrap().len() == 1).await;
    match asks {
        Asks::Not => {}
        Asks::All => assert_eq!(redeliver(&world, "a", 0).await, 3),
        Asks::Second => {
            let revision = dead[1].event.as_ref().unwrap().revision;
            assert_eq!(redeliver(&world, "a", revision).await, 1);
        }
    }
    receiver.set(Way::Status(204));
    so("nothing to be due", async || dead_letters(&world, "a").await.iter().all(|dead| !dead.due))
        .await;
    // What came behind them is taken, too: nothing more is sent of them.
    world.submit(tcc("g-4", &["ok"])).await.unwrap();
    so("the next event to be taken", async || {
        receiver.told().last().is_some_and(|(gid, _)| gid == "g-4")
    })
    .await;
    let stay = dead_letters(&world, "a").await;
    let stay = stay.iter().map(|dead| dead.event.as_ref().unwrap().gid.clone()).collect();
    let mut taken = gids(&receiver.taken());
    taken.pop();
    (taken, stay)
}

/// Each is sent again once for all who ask before it is sent, and once more for who asks while an attempt is under way that
/// fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_that_are_asked_for_while_they_are_sent_are_sent_by_what_the_receiver_does_then()
 {
    for (status, asks, taken, stay) in [
        (204, Asks::All, &["g-1", "g-2", "g-3"][..], &[][..]),
        (500, Asks::Not, &["g-2", "g-3"], &["g-1"]),
        (500, Asks::Second, &["g-2", "g-3"], &["g-1"]),
        (500, Asks::All, &["g-2", "g-3", "g-1"], &[]),
    ] {
        for database in [sqlite_url(), Server::shared().database().await] {
            let found = asked_twice(&database, status, asks).await;
            assert_eq!(found.0, taken, "{status} {asks:?} {database}");
            assert_eq!(found.1, stay, "{status} {asks:?} {database}");
        }
    }
}

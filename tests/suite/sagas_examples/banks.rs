//! Bank by TCC of the examples, whose account vanishes between its vote and phase two (promise S11).

use sqlx::{AssertSqlSafe, PgPool};
use unanimo_examples::{Posting, accounts, tcc};
use unanimo_sdk::client::Executed;
use unanimo_sdk::{Client, Json, Outcome, Postgres, Serve};
use unanimo_testing::Coordinator;
use unanimo_tests::postgres::Server;
use unanimo_tests::wait::until;

const CENTS: i64 = 100;

/// An account that another one of its name has replaced holds nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gone {
    Renamed,
    Deleted,
    Replaced,
}

/// Tells whether a decided transaction has ended, and the last error of its branch.
async fn told(client: &Client, gid: &str) -> (bool, String) {
    let (ended, mut branches) = match client.find(gid).await.unwrap() {
        Outcome::Committed(committed) => (committed.ended, committed.branches),
        Outcome::Aborted(aborted) => (aborted.ended, aborted.branches),
        Outcome::NotDecided(_) => panic!("{gid} is not decided"),
    };
    (ended, branches.remove(0).last_error)
}

#[tokio::test]
async fn s11_a_bank_whose_account_is_gone_does_not_end() {
    let coordinator = Coordinator::start().await.unwrap();
    let client = coordinator.client().unwrap();
    let database = Server::shared().database().await;
    let pool = PgPool::connect(&database).await.unwrap();
    accounts::create(&pool, &[]).await.unwrap();
    let bank = tcc::bank("bank", Postgres::connect(&database).await.unwrap());
    let serve = Serve::on("127.0.0.1:0").register_with(coordinator.endpoint());
    let mut serving = bank.serve(serve).await.unwrap();
    serving.registered().await.unwrap();
    let run = async |statements: String| {
        sqlx::raw_sql(AssertSqlSafe(statements)).execute(&pool).await.unwrap();
    };

    let gones = [Gone::Renamed, Gone::Deleted, Gone::Replaced];
    let ends = ["debit", "credit"].into_iter().flat_map(|action| [(action, true), (action, false)]);
    for (action, commits) in ends {
        for gone in gones {
            let account = format!("{action}-{commits}-{gone:?}");
            accounts::create(&pool, &[(account.clone(), 1000)]).await.unwrap();
            let mut transfer = client.tcc(&account).begin().await.unwrap();
            let posting = Json(Posting { account: account.clone(), cents: CENTS });
            let voted = transfer.execute("b", "bank", action, posting).await.unwrap();
            assert!(matches!(voted, Executed::Prepared(_)), "{account}");
            let deleted = format!("DELETE FROM account WHERE id = '{account}'");
            run(match gone {
                Gone::Renamed => format!("UPDATE account SET id = 'x' WHERE id = '{account}'"),
                Gone::Deleted => deleted,
                Gone::Replaced => {
                    format!("{deleted}; INSERT INTO account (id, cents) VALUES ('{account}', 1000)")
                }
            })
            .await;
            let decided = if commits { transfer.commit().await } else { transfer.rollback().await };
            assert_eq!(decided.unwrap().is_committed(), commits, "{account}");
            until(&format!("{account} to fail"), async || {
                let (ended, error) = told(&client, &account).await;
                assert!(!ended, "{account} has ended, and nobody was told");
                error.contains(" is gone: must be 1 row, found 0").then_some(())
            })
            .await;
            if gone != Gone::Renamed {
                continue;
            }
            run(format!("UPDATE account SET id = '{account}' WHERE id = 'x'")).await;
            until(&format!("{account} to end"), async || {
                told(&client, &account).await.0.then_some(())
            })
            .await;
            let change = if action == "debit" { -CENTS } else { CENTS };
            let cents = 1000 + if commits { change } else { 0 };
            let found = accounts::balances(&pool).await.unwrap();
            let found = found.into_iter().find(|(id, ..)| *id == account).unwrap();
            assert_eq!(found, (account, cents, 0, 0));
        }
    }
    serving.stop().await.unwrap();
    coordinator.stop().await.unwrap();
}

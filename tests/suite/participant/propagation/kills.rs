//! A bank's process is killed with -9 in the middle of joining, and started again.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use sqlx::SqlitePool;
use unanimo_sdk::client::{AbortCause, Transaction};
use unanimo_tests::joining;
use unanimo_tests::reaper::{Owned, run_folder};

use super::{Outcome, RICH};
use crate::coordinator;

/// The process, and what it says.
struct Process {
    owned: Owned,
    said: mpsc::Receiver<String>,
    http: String,
}

impl Process {
    async fn start(file: &str, coordinator: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_joining-bank"));
        command.args(["bank", file, coordinator]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut owned = Owned::spawn(&mut command);
        let stdout = owned.child().stdout.take().unwrap();
        let (says, said) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| says.send(l))
        });
        let mut process = Self { owned, said, http: String::new() };
        let line = process.says().await;
        process.http = line.strip_prefix("http ").unwrap().to_owned();
        process
    }

    /// The next line that it prints.
    async fn says(&self) -> String {
        unanimo_tests::wait::until("a word of the bank's", async || self.said.try_recv().ok()).await
    }
}

struct Scene {
    coordinator: coordinator::World,
    url: String,
    file: PathBuf,
    pool: SqlitePool,
    bank: Process,
}

impl Scene {
    async fn start() -> Self {
        let coordinator = coordinator::World::sqlite().await;
        let url = format!("http://{}", coordinator.running.grpc_address().unwrap());
        let file = run_folder().join(format!("{}.db", uuid::Uuid::new_v4()));
        let pool = SqlitePool::connect(&format!("sqlite:{}?mode=rwc", file.display())).await;
        let pool = pool.unwrap();
        sqlx::raw_sql(
            "CREATE TABLE account (id text PRIMARY KEY, cents integer, held integer DEFAULT 0);
             INSERT INTO account (id, cents) VALUES ('x', 1000), ('stall', 1000)",
        )
        .execute(&pool)
        .await
        .unwrap();
        let bank = Process::start(file.to_str().unwrap(), &url).await;
        Self { coordinator, url, file, pool, bank }
    }

    async fn begin(&self, gid: &str) -> Transaction {
        let client = unanimo_sdk::Client::new(&self.url).unwrap();
        client.tcc(gid).begin().await.unwrap()
    }

    /// Sends an order, and kills the bank when it has said `word`.
    async fn order_and_kill(&mut self, tx: &Transaction, order: &str, word: &str) {
        let client = joining::client(&tx.propagation().layer());
        let url = format!("{}/{order}", self.bank.http);
        let sending = tokio::spawn(async move { joining::send(&client, &url, None).await });
        assert_eq!(self.bank.says().await, word);
        self.bank.owned.kill();
        sending.await.unwrap().unwrap_err();
    }

    async fn start_again(&mut self) {
        self.bank = Process::start(self.file.to_str().unwrap(), &self.url).await;
    }

    /// Money that is there, and that is held, of each account.
    async fn money(&self) -> Vec<(String, i64, i64)> {
        sqlx::query_as("SELECT id, cents, held FROM account ORDER BY id")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    async fn states(&self) -> Vec<String> {
        let query = "SELECT state FROM unanimo_barrier";
        sqlx::query_scalar(query).fetch_all(&self.pool).await.unwrap()
    }

    async fn aborts(&self, tx: &Transaction) {
        let gid = tx.propagation().context().gid().to_owned();
        let Outcome::Aborted(aborted) = tx.commit().await.unwrap() else { panic!("{gid}") };
        assert_eq!((aborted.cause, aborted.branches.len()), (AbortCause::Unlisted, 1));
        self.coordinator.get_until(&gid, "its end", |t| t.ended_at.is_some()).await;
        let untouched = [("stall", RICH, 0), ("x", RICH, 0)];
        assert_eq!(self.money().await, untouched.map(|(id, c, h)| (id.to_owned(), c, h)));
        // No Prepare comes any more, and if one did, it would be refused.
        assert_eq!(self.states().await, ["cancelled"], "S8");
    }
}

#[tokio::test]
async fn s7_a_bank_killed_between_enlist_and_its_vote_leaves_nothing() {
    let mut scene = Scene::start().await;
    let tx = scene.begin("killed-preparing").await;
    scene.order_and_kill(&tx, "hold/stall/100/ok", "preparing").await;
    // S6: the coordinator knows the branch whose work was under way.
    let shown = scene.coordinator.get("killed-preparing").await;
    assert_eq!(shown.branches.len(), 1, "S6: {shown:?}");
    assert!(scene.states().await.is_empty(), "its local transaction went with it");
    scene.start_again().await;
    scene.aborts(&tx).await;
}

#[tokio::test]
async fn s7_a_bank_killed_between_its_vote_and_its_reply_undoes_what_it_prepared() {
    let mut scene = Scene::start().await;
    let tx = scene.begin("killed-prepared").await;
    scene.order_and_kill(&tx, "hold/x/100/hang", "joined").await;
    assert_eq!(scene.states().await, ["prepared"]);
    assert_eq!(scene.money().await[1], ("x".to_owned(), RICH - 100, 100));
    scene.start_again().await;
    scene.aborts(&tx).await;
}

/// Decisions that were told before the kill are carried out after it.
#[tokio::test]
async fn s7_a_bank_killed_after_its_reply_commits_what_it_prepared() {
    let mut scene = Scene::start().await;
    let tx = scene.begin("killed-replied").await;
    let client = joining::client(&tx.propagation().layer());
    let url = format!("{}/hold/x/100/ok", scene.bank.http);
    let (status, _) = joining::send(&client, &url, None).await.unwrap();
    assert_eq!(status, http::StatusCode::OK);
    scene.bank.owned.kill();
    assert!(tx.commit().await.unwrap().is_committed());
    scene.start_again().await;
    scene.coordinator.get_until("killed-replied", "its end", |t| t.ended_at.is_some()).await;
    assert_eq!(scene.money().await[1], ("x".to_owned(), RICH - 100, 0));
    assert_eq!(scene.states().await, ["committed"]);
}

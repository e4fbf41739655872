//! Steps of the tour, and the text of each.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use unanimo_sdk::client::Draft;
use unanimo_sdk::{Client, Json, Outcome};

use super::bank::Posting;
use super::banks::{Bank, Databases};
use super::{Failure, Stage};
use crate::browser;
use crate::child::Coordinator;
use crate::output::{self, BAD, GOOD, HEADING, HINT};

/// Settings that make the tour short: calls are repeated soon.
const SHORT: [&str; 4] = ["--phase-two-backoff-max", "100ms", "--call-timeout", "500ms"];

/// Money of alice and bob at the start, in cents.
const ALICE: i64 = 10_000;
const BOB: i64 = 5_000;

/// Timeout of a transfer: a vote that has not come by then means ABORT.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Time that the tour waits for an expected result.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs it. With a stage the coordinator stays at the end, until that is over.
pub(super) async fn run(
    postgres: Option<&str>,
    open: Option<&watch::Sender<Stage>>,
) -> Result<(), Failure> {
    let folder = tempfile::tempdir().map_err(Failure::Folder)?;
    let Some(server) = postgres else {
        let a = Bank::on_sqlite(folder.path(), "bank-a", "alice", ALICE).await?;
        let b = Bank::on_sqlite(folder.path(), "bank-b", "bob", BOB).await?;
        let url = format!("sqlite:{}", folder.path().join("coordinator.db").display());
        return Tour::start(url, [a, b], Mode::Tcc).await?.walk(open).await;
    };
    let databases = Databases::create(server).await?;
    let toured = on_postgres(&databases, open).await;
    // The databases are dropped also if the tour failed; its own error is the one to report.
    let dropped = databases.drop().await;
    toured.and(dropped)
}

async fn on_postgres(
    databases: &Databases,
    open: Option<&watch::Sender<Stage>>,
) -> Result<(), Failure> {
    let a = Bank::on_postgres(&databases.url(1), "bank-a", "alice", ALICE).await?;
    let b = Bank::on_postgres(&databases.url(2), "bank-b", "bob", BOB).await?;
    Tour::start(databases.url(0), [a, b], Mode::TwoPhase).await?.walk(open).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Tcc,
    TwoPhase,
}

struct Tour {
    banks: [Bank; 2],
    mode: Mode,
    coordinator: Coordinator,
    client: Client,
}

impl Tour {
    async fn start(database_url: String, banks: [Bank; 2], mode: Mode) -> Result<Self, Failure> {
        let participants = banks.each_ref().map(|bank| format!("{}={}", bank.name, bank.endpoint));
        let coordinator = Coordinator::start(&database_url, "demo", &SHORT, &participants).await?;
        let client = Client::new(coordinator.endpoint())?.wait_at_most(PATIENCE);
        Ok(Self { banks, mode, coordinator, client })
    }

    async fn walk(mut self, open: Option<&watch::Sender<Stage>>) -> Result<(), Failure> {
        let (mode, stores) = match self.mode {
            Mode::Tcc => ("TCC: try, confirm, cancel", "SQLite files"),
            Mode::TwoPhase => ("two-phase commit", "PostgreSQL databases"),
        };
        say(&format!(
            "{HEADING}Two banks that share nothing, and a coordinator between them.{HEADING:#}\n\
             {mode}, on {stores} of their own. The coordinator is process {}, at {}.\n",
            self.coordinator.pid(),
            self.coordinator.endpoint()
        ))?;
        self.balances().await?;
        self.commits().await?;
        self.is_refused().await?;
        self.falls_silent().await?;
        self.is_killed().await?;
        self.adds_up().await?;
        self.look().await?;
        match open {
            None => say(&format!("\nThe demo has removed everything that it made. {}", next())),
            Some(stage) => self.stay(stage).await,
        }
    }

    /// Shows the dashboard until somebody ends it.
    async fn stay(&mut self, stage: &watch::Sender<Stage>) -> Result<(), Failure> {
        let (pages, endpoint) = (self.coordinator.pages(), self.coordinator.endpoint());
        stage.send_replace(Stage::Open);
        say(&format!(
            "\n{HEADING}Dashboard:{HEADING:#} {pages}/\nCommands of another terminal reach it with {HINT}export \
             UNANIMO_ENDPOINT={endpoint}{HINT:#}\nCtrl-C ends the demo, and removes everything that it made.\n"
        ))?;
        browser::open(pages);
        // The sender is there as long as this is.
        let _ = stage.subscribe().wait_for(|stage| *stage == Stage::Over).await;
        self.coordinator.kill().await?;
        say(&format!("\nThe demo has removed everything that it made. {}", next()))
    }

    async fn commits(&self) -> Result<(), Failure> {
        heading("1. 25.00 from alice to bob")?;
        let started = Instant::now();
        let outcome = self.transfer("demo-1", 2_500).submit().await?;
        expect(outcome.is_committed(), &outcome)?;
        say(&format!(
            "   {GOOD}committed{GOOD:#} in {} ms. Both banks had voted yes, and the decision was on \
             disk before any answer was sent.\n",
            started.elapsed().as_millis()
        ))?;
        self.reached([7_500, 7_500]).await
    }

    async fn is_refused(&self) -> Result<(), Failure> {
        heading("2. 500.00 from alice to bob")?;
        let outcome = self.transfer("demo-2", 50_000).submit().await?;
        expect(outcome.is_aborted(), &outcome)?;
        say(&format!(
            "   {BAD}{outcome}{BAD:#}\n   One refusal is enough: bob's bank cancels its part.\n"
        ))?;
        self.reached([7_500, 7_500]).await
    }

    async fn falls_silent(&self) -> Result<(), Failure> {
        heading("3. 10.00 from alice to bob, and the answer of bob's bank to Prepare is lost")?;
        let loses = &self.banks[1].faults.loses_votes;
        loses.send_replace(true);
        let outcome = self.transfer("demo-3", 1_000).timeout(TIMEOUT).submit().await?;
        loses.send_replace(false);
        expect(outcome.is_aborted(), &outcome)?;
        say(&format!(
            "   {BAD}{outcome}{BAD:#}\n   The coordinator could not know whether bob's bank had \
             prepared. So it sent Cancel to that bank, too.\n"
        ))?;
        self.reached([7_500, 7_500]).await
    }

    async fn is_killed(&mut self) -> Result<(), Failure> {
        heading("4. 15.00 from alice to bob, and kill -9 after the decision, before its delivery")?;
        let holds = self.banks[1].faults.holds_commits.clone();
        holds.send_replace(true);
        let outcome = self.transfer("demo-4", 1_500).submit().await?;
        expect(outcome.is_committed(), &outcome)?;
        self.until([6_000, 7_500]).await?;
        say(&format!(
            "   {GOOD}committed{GOOD:#}. Alice's bank has the Commit, bob's bank has not: its \
             network is down.\n"
        ))?;
        self.balances().await?;
        let killed = self.coordinator.pid();
        self.coordinator.kill().await?;
        say(&format!(
            "   {BAD}kill -9 {killed}{BAD:#}: 15.00 are missing, and no coordinator runs.\n"
        ))?;
        self.coordinator.start_again().await?;
        let started = Instant::now();
        holds.send_replace(false);
        say(&format!(
            "   Started again as process {}. It finds the decision in its database.\n",
            self.coordinator.pid()
        ))?;
        self.until([6_000, 9_000]).await?;
        say(&format!(
            "   {GOOD}Delivered{GOOD:#} {} ms later. It takes effect once, however often it is \
             sent.\n",
            started.elapsed().as_millis()
        ))?;
        let again = self.transfer("demo-4", 1_500).submit().await?;
        expect(again.is_committed(), &again)?;
        say(
            "   The initiator submits it once more: it gets the same answer, and no money moves.\n",
        )?;
        self.reached([6_000, 9_000]).await
    }

    async fn adds_up(&self) -> Result<(), Failure> {
        let total = self.banks[0].cents().await? + self.banks[1].cents().await?;
        if total != ALICE + BOB {
            return Err(Failure::Surprise(format!("there are {} now", money(total))));
        }
        say(&format!(
            "\n{GOOD}{} before, {} now.{GOOD:#} Two transfers took place, two did not, and none was \
             half done.\n",
            money(ALICE + BOB),
            money(total)
        ))
    }

    /// Runs the commands with which an operator looks at transactions.
    async fn look(&self) -> Result<(), Failure> {
        self.command(&["tx", "list"]).await?;
        self.command(&["tx", "show", "demo-4"]).await?;
        say(
            "\nThe coordinator sent Commit to alice's bank twice: the first answer was not on disk \
             when the coordinator was killed. The bank's barrier repeated its answer, and no money \
             moved.\n",
        )
    }

    /// Runs a command of this program, as a user would type it.
    async fn command(&self, arguments: &[&str]) -> Result<(), Failure> {
        say(&format!("\n{HINT}$ unanimo {}{HINT:#}\n", arguments.join(" ")))?;
        let program = std::env::current_exe().map_err(Failure::Command)?;
        let mut command = tokio::process::Command::new(program);
        command.args(arguments).env("UNANIMO_ENDPOINT", self.coordinator.endpoint());
        let status = command.status().await.map_err(Failure::Command)?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::Surprise(format!("{}: {status}", arguments.join(" ")))),
        }
    }

    fn transfer(&self, gid: &str, cents: i64) -> Draft {
        let draft = match self.mode {
            Mode::Tcc => self.client.tcc(gid),
            Mode::TwoPhase => self.client.two_phase(gid),
        };
        let [a, b] = &self.banks;
        let posting = |bank: &Bank, cents| Json(Posting { account: bank.owner.to_owned(), cents });
        draft.branch("debit", a.name, "post", posting(a, -cents)).branch(
            "credit",
            b.name,
            "post",
            posting(b, cents),
        )
    }

    async fn reached(&self, expected: [i64; 2]) -> Result<(), Failure> {
        self.until(expected).await?;
        self.balances().await
    }

    /// Waits until alice and bob have these cents, by the banks' own databases.
    async fn until(&self, expected: [i64; 2]) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let found = [self.banks[0].cents().await?, self.banks[1].cents().await?];
            if found == expected {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                let found = found.map(money).join(" and ");
                return Err(Failure::Surprise(format!("alice and bob have {found}")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn balances(&self) -> Result<(), Failure> {
        let [a, b] = &self.banks;
        let (alice, bob) = (money(a.cents().await?), money(b.cents().await?));
        say(&format!("   alice has {alice} at {}, bob has {bob} at {}.\n", a.name, b.name))
    }
}

fn next() -> String {
    format!(
        "Next: {HINT}unanimo serve{HINT:#} (or {HINT}cargo run -- serve{HINT:#}) starts a coordinator of your own, \
         and docs/first-participant.md shows how your service becomes a participant.\n"
    )
}

fn expect(as_promised: bool, outcome: &Outcome) -> Result<(), Failure> {
    if as_promised { Ok(()) } else { Err(Failure::Surprise(outcome.to_string())) }
}

fn heading(text: &str) -> Result<(), Failure> {
    say(&format!("\n{HEADING}{text}{HEADING:#}\n"))
}

fn say(text: &str) -> Result<(), Failure> {
    output::print(text).map_err(|error| Failure::Output(Box::new(error)))
}

fn money(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

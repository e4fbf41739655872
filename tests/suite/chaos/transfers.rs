//! Transfers that the initiators ask the coordinator for.

use std::time::{Duration, Instant};

use unanimo_examples::Posting;
use unanimo_sdk::client::{Draft, Error};
use unanimo_sdk::{Client, Json, Outcome};
use unanimo_tests::wait::PATIENCE;

use super::Mode;
use super::bank::{ACCOUNTS, RICH};

/// Transfer of money from one bank to the other.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) gid: String,
    pub(crate) from: usize,
    pub(crate) account: usize,
    pub(crate) cents: i64,
    pub(crate) interactive: bool,
    /// Outcomes that its initiators got.
    pub(crate) heard: Vec<Outcome>,
}

impl Clone for Transfer {
    fn clone(&self) -> Self {
        Self { gid: self.gid.clone(), heard: Vec::new(), ..*self }
    }
}

/// Pause before a transfer that was not taken is asked for again.
const PAUSE: Duration = Duration::from_millis(100);

const BANKS: [&str; 2] = ["bank-a", "bank-b"];

/// Makes transfers of every kind: both directions, many accounts, one without enough money, one
/// that is interactive.
pub(crate) fn some(round: &str, count: usize) -> Vec<Transfer> {
    let one = |index: usize| Transfer {
        gid: format!("{round}-{index}"),
        from: index % 2,
        // These two have opposite directions: in two-phase commit they can deadlock.
        account: if index == 13 { 12 } else { index % ACCOUNTS },
        cents: if index % 5 == 4 { 2 * RICH } else { 1 + index as i64 },
        interactive: index % 4 == 3,
        heard: Vec::new(),
    };
    (0..count).map(one).collect()
}

impl Transfer {
    /// Returns the cents that a bank gains if the transfer commits.
    pub(crate) fn gain_of(&self, bank: &str) -> i64 {
        if BANKS[self.from] == bank { -self.cents } else { self.cents }
    }

    fn draft(&self, client: &Client, mode: Mode) -> Draft {
        match mode {
            Mode::Tcc => client.tcc(&self.gid),
            Mode::TwoPhase => client.two_phase(&self.gid),
        }
    }

    fn posting(&self) -> Json<Posting> {
        Json(Posting { account: format!("a{}", self.account), cents: self.cents })
    }

    /// Runs the transfer: submits it twice at once, or runs it step by step.
    pub(crate) async fn run(&self, client: &Client, mode: Mode) -> Vec<Outcome> {
        if self.interactive {
            // An initiator whose call fails gives up: the deadline then ends the transaction.
            return self.step_by_step(client, mode).await.into_iter().collect();
        }
        let (one, two) = tokio::join!(self.answered(client, mode), self.answered(client, mode));
        vec![one, two]
    }

    /// Submits it until it is taken: a bank that was silent for a while, as on a machine with too much to do, takes
    /// no new work for a moment.
    async fn answered(&self, client: &Client, mode: Mode) -> Outcome {
        let began = Instant::now();
        loop {
            match self.submit(client, mode).await {
                Err(Error::Rejected { retryable: true, .. }) if began.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                answer => return answer.unwrap(),
            }
        }
    }

    pub(crate) async fn submit(&self, client: &Client, mode: Mode) -> Result<Outcome, Error> {
        self.draft(client, mode)
            .branch("debit", BANKS[self.from], "debit", self.posting())
            .branch("credit", BANKS[1 - self.from], "credit", self.posting())
            .submit()
            .await
    }

    async fn step_by_step(&self, client: &Client, mode: Mode) -> Result<Outcome, Error> {
        let mut transaction = self.draft(client, mode).begin().await?;
        let debit = transaction.execute("debit", BANKS[self.from], "debit", self.posting());
        let _ = debit.await?;
        let credit = transaction.execute("credit", BANKS[1 - self.from], "credit", self.posting());
        let _ = credit.await?;
        transaction.commit().await
    }
}

/// Tells whether one outcome is committed and the other aborted.
pub(crate) fn opposite(one: &Outcome, other: &Outcome) -> bool {
    (one.is_committed() && other.is_aborted()) || (one.is_aborted() && other.is_committed())
}

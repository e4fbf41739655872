//! What is asked of the coordinator.

use unanimo_examples::Posting;
use unanimo_sdk::client::{Draft, Error};
use unanimo_sdk::{Client, Json, Outcome};

use super::Mode;
use super::bank::{ACCOUNTS, RICH};

/// Money from one bank to the other.
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) gid: String,
    pub(crate) from: usize,
    pub(crate) account: usize,
    pub(crate) cents: i64,
    pub(crate) interactive: bool,
    /// What its initiators were told.
    pub(crate) heard: Vec<Outcome>,
}

impl Clone for Transfer {
    fn clone(&self) -> Self {
        Self { gid: self.gid.clone(), heard: Vec::new(), ..*self }
    }
}

const BANKS: [&str; 2] = ["bank-a", "bank-b"];

/// Some of every kind: both directions, many accounts, one that cannot be paid, one step by step.
pub(crate) fn some(round: &str, count: usize) -> Vec<Transfer> {
    let one = |index: usize| Transfer {
        gid: format!("{round}-{index}"),
        from: index % 2,
        // These two go in opposite directions: in two-phase commit they lock each other out.
        account: if index == 13 { 12 } else { index % ACCOUNTS },
        cents: if index % 5 == 4 { 2 * RICH } else { 1 + index as i64 },
        interactive: index % 4 == 3,
        heard: Vec::new(),
    };
    (0..count).map(one).collect()
}

impl Transfer {
    /// What a bank gains if it commits.
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

    /// Asks for it: twice at once, or step by step.
    pub(crate) async fn run(&self, client: &Client, mode: Mode) -> Vec<Outcome> {
        if self.interactive {
            // An initiator that loses its way gives up: the deadline ends the transaction.
            return self.step_by_step(client, mode).await.into_iter().collect();
        }
        let (one, two) = tokio::join!(self.submit(client, mode), self.submit(client, mode));
        vec![one.unwrap(), two.unwrap()]
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

/// Whether one says committed and the other aborted.
pub(crate) fn opposite(one: &Outcome, other: &Outcome) -> bool {
    (one.is_committed() && other.is_aborted()) || (one.is_aborted() && other.is_committed())
}

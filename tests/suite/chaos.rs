//! Chaos tests: two banks with a database server each, and a coordinator, all in processes of their
//! own, which are killed at the worst moments. Afterwards every transfer has ended, no client got a
//! wrong outcome, and the sum of the money is right.

mod bank;
mod crashes;
mod databases;
mod participants;
pub(crate) mod process;
mod sagas;
mod soak;
mod transfers;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use unanimo_proto::v1::coordinator_service_client::CoordinatorServiceClient;
use unanimo_proto::v1::{ListTransactionsRequest, TransactionState};
use unanimo_sdk::client::Heuristic;
use unanimo_sdk::{Client, Outcome};
use unanimo_tests::recorder::Told;
use unanimo_tests::wait::until;

use self::bank::Bank;
use self::process::Process;
use self::transfers::{Transfer, opposite};

/// Mode of the banks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Tcc,
    TwoPhase,
}

/// Banks, coordinator and client of a test.
pub(crate) struct World {
    pub(crate) mode: Mode,
    pub(crate) banks: [Bank; 2],
    pub(crate) coordinator: Process,
    pub(crate) client: Client,
    /// Every transfer that was started.
    done: Vec<Transfer>,
}

impl World {
    pub(crate) async fn start(mode: Mode, coordinator_database: &str) -> Self {
        let banks = [Bank::open("bank-a", mode).await, Bank::open("bank-b", mode).await];
        Self::with(mode, banks, coordinator_database).await
    }

    pub(crate) async fn with(mode: Mode, banks: [Bank; 2], coordinator_database: &str) -> Self {
        let coordinator = process::coordinator(coordinator_database, &banks).await;
        Self::around(mode, banks, coordinator)
    }

    pub(crate) fn around(mode: Mode, banks: [Bank; 2], coordinator: Process) -> Self {
        let client = Client::new(coordinator.url()).unwrap().wait_at_most(Duration::from_secs(60));
        Self { mode, banks, coordinator, client, done: Vec::new() }
    }

    /// Runs transfers, all at once, while something happens.
    pub(crate) async fn run_while(
        &mut self,
        transfers: Vec<Transfer>,
        happening: impl AsyncFnOnce(&Self),
    ) {
        let running: Vec<_> = transfers
            .iter()
            .map(|transfer| {
                let (transfer, client, mode) = (transfer.clone(), self.client.clone(), self.mode);
                tokio::spawn(async move { transfer.run(&client, mode).await })
            })
            .collect();
        happening(self).await;
        for (transfer, running) in transfers.into_iter().zip(running) {
            let heard = running.await.unwrap();
            self.done.push(Transfer { heard, ..transfer });
        }
    }

    /// Checks everything that must hold once all faults are over.
    pub(crate) async fn check(&self) {
        let mut outcomes = BTreeMap::new();
        self.all_end_in_time().await;
        for transfer in &self.done {
            let outcome = self.ended(&transfer.gid).await;
            for heard in &transfer.heard {
                assert!(!opposite(heard, &outcome), "S10: {} heard {heard}", transfer.gid);
            }
            if transfer.cents > bank::RICH {
                assert!(outcome.is_aborted(), "S2: {}", transfer.gid);
            }
            outcomes.insert(transfer.gid.clone(), outcome);
        }
        self.check_money(&outcomes).await;
        self.check_branches(&outcomes).await;
        // Submitted once more after the end: the answer is the same, and no money moves.
        for transfer in self.done.iter().filter(|transfer| !transfer.interactive) {
            let again = transfer.submit(&self.client, self.mode).await.unwrap();
            assert!(!opposite(&again, &outcomes[&transfer.gid]), "S9: {}", transfer.gid);
        }
        self.check_money(&outcomes).await;
    }

    /// L1: all transactions end in time. They are listed: who asks for one would have it adopted.
    async fn all_end_in_time(&self) {
        let mut client = CoordinatorServiceClient::connect(self.coordinator.url()).await.unwrap();
        let mut open = async || {
            let states = [
                TransactionState::Active,
                TransactionState::Committing,
                TransactionState::Aborting,
            ];
            let states = states.map(i32::from).to_vec();
            let request = ListTransactionsRequest { states, ..Default::default() };
            client.list_transactions(request).await.map(|listed| listed.into_inner().transactions)
        };
        // From the moment on at which the coordinator that was killed last is back, the time counts.
        until("the coordinator", async || open().await.is_ok().then_some(())).await;
        let healed = Instant::now();
        loop {
            // Looked at before the transactions: that may have been later.
            let since = healed.elapsed();
            let open = open().await.unwrap();
            if open.is_empty() {
                return;
            }
            assert!(since < process::ENDED_WITHIN, "L1: not ended after {since:?}: {open:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns the outcome of a transaction that has ended.
    async fn ended(&self, gid: &str) -> Outcome {
        let found = self.client.find(gid).await.unwrap_or_else(|error| panic!("{gid}: {error}"));
        let (ended, heuristic) = match &found {
            Outcome::Committed(committed) => (committed.ended, committed.heuristic),
            Outcome::Aborted(aborted) => (aborted.ended, aborted.heuristic),
            Outcome::NotDecided(_) => (false, Heuristic::None),
        };
        assert!(ended, "{gid} was not listed, and has not ended");
        assert_eq!(heuristic, Heuristic::None, "{gid}");
        found
    }

    async fn check_money(&self, outcomes: &BTreeMap<String, Outcome>) {
        for bank in &self.banks {
            let committed = self.done.iter().filter(|t| outcomes[&t.gid].is_committed());
            let moved: i64 = committed.map(|transfer| transfer.gain_of(&bank.name)).sum();
            let (cents, held, incoming) = bank.total().await;
            assert_eq!(cents, bank::CAPITAL + moved, "S7: {} has the right money", bank.name);
            assert_eq!((held, incoming), (0, 0), "S7: nothing is left half done");
            assert_eq!(bank.in_doubt().await, Vec::<String>::new(), "nothing is left prepared");
        }
    }

    /// Checks that the calls to each branch, and its end, fit the decision.
    async fn check_branches(&self, outcomes: &BTreeMap<String, Outcome>) {
        for bank in &self.banks {
            let rows = bank.barrier().await;
            let told = bank.recorder.told();
            for (gid, outcome) in outcomes {
                let (tx_id, committed) = match outcome {
                    Outcome::Committed(committed) => (&committed.tx_id, true),
                    Outcome::Aborted(aborted) => (&aborted.tx_id, false),
                    Outcome::NotDecided(_) => panic!("{gid} has ended"),
                };
                for ((_, branch), told) in told.iter().filter(|((of, _), _)| of == tx_id) {
                    let Told { prepared, commits, cancels } = *told;
                    assert!(commits == 0 || cancels == 0, "S1: {gid} {branch}: {told:?}");
                    assert!(commits == 0 || committed, "S3: {gid} {branch}: {told:?}");
                    assert!(cancels == 0 || !committed, "S3: {gid} {branch}: {told:?}");
                    let owed = prepared == 0 || commits + cancels > 0;
                    assert!(owed, "S7: {gid} {branch}: {told:?}");
                }
                for (branch, state) in rows.iter().filter(|row| row.0 == *gid).map(|r| (&r.1, &r.2))
                {
                    let fits = match state.as_str() {
                        "committed" => committed,
                        "cancelled" | "refused" => !committed,
                        _ => false,
                    };
                    assert!(fits, "S7: {gid} {branch} is {state}, and it is {outcome}");
                }
            }
        }
    }
}

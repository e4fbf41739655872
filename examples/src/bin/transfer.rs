//! Moves money from an account of one bank to an account of another, or not at all.

use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use unanimo_examples::Posting;
use unanimo_sdk::client::{Draft, Heuristic};
use unanimo_sdk::{Client, Json, Outcome};

/// Moves money between two banks. Exit codes: 0 the money has moved, 4 no money has moved, 5 not
/// decided yet: run it again with the same gid; 6 decided, and a bank has not done, or cannot tell whether it
/// has done, as was decided: a person has to look at it.
#[derive(Debug, Parser)]
struct Transfer {
    /// Name of the transfer. The same name is the same transfer, also if you start it again.
    #[arg(long)]
    gid: String,
    /// Account to take the money from: BANK/ACCOUNT.
    #[arg(long, value_parser = account)]
    from: (String, String),
    /// Account to give the money to: BANK/ACCOUNT.
    #[arg(long, value_parser = account)]
    to: (String, String),
    /// Amount in cents.
    #[arg(long)]
    cents: i64,
    /// Mode of the banks: tcc for tcc-bank, two-phase for two-phase-bank.
    #[arg(long, default_value = "tcc")]
    mode: Mode,
    /// Address of the coordinator.
    #[arg(long, env = "UNANIMO_ENDPOINT", default_value = "http://127.0.0.1:7610")]
    coordinator: String,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    Tcc,
    TwoPhase,
}

fn account(text: &str) -> Result<(String, String), String> {
    let (bank, account) = text.split_once('/').ok_or("must be BANK/ACCOUNT")?;
    Ok((bank.to_owned(), account.to_owned()))
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let Transfer { gid, from, to, cents, mode, coordinator } = Transfer::parse();
    let client = Client::new(coordinator)?;
    let draft: Draft = match mode {
        Mode::Tcc => client.tcc(gid),
        Mode::TwoPhase => client.two_phase(gid),
    };
    let posting = |account: String| Json(Posting { account, cents });
    let outcome = draft
        .branch("debit", from.0, "debit", posting(from.1))
        .branch("credit", to.0, "credit", posting(to.1))
        // Only then it is known whether each bank has done as was decided.
        .wait_until_ended()
        .submit()
        .await?;
    println!("{outcome}");
    let (ended, heuristic) = match &outcome {
        Outcome::Committed(committed) => (committed.ended, committed.heuristic),
        Outcome::Aborted(aborted) => (aborted.ended, aborted.heuristic),
        Outcome::NotDecided(_) => return Ok(ExitCode::from(5)),
    };
    if heuristic != Heuristic::None {
        println!(
            "a bank has ended otherwise, or cannot tell ({heuristic:?}): see `unanimo tx show`"
        );
        return Ok(ExitCode::from(6));
    }
    if !ended {
        println!("a bank has not done its part yet: it will");
    }
    Ok(if outcome.is_committed() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

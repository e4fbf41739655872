//! Bank that takes part in transactions of two-phase commit.

use clap::Parser;
use unanimo_examples::serving::Bank;
use unanimo_examples::two_phase;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Bank::parse().run(two_phase::bank).await
}

//! Bank that takes part in TCC transactions.

use clap::Parser;
use unanimo_examples::serving::Bank;
use unanimo_examples::tcc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    Bank::parse().run(tcc::bank).await
}

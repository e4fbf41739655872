//! Command line and start of both banks' processes.

use clap::Parser;
use unanimo_sdk::{Participant, Postgres, Serve};

use crate::accounts;

/// A bank with a PostgreSQL database of its own.
#[derive(Debug, Parser)]
pub struct Bank {
    /// Name of the participant.
    #[arg(long, default_value = "bank-a")]
    name: String,
    /// The bank's own database: postgres://USER:PASSWORD@HOST/DATABASE.
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
    /// Address to listen on; port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Endpoint at which the coordinator reaches this process, http://HOST:PORT. By default it is
    /// the address to listen on.
    #[arg(long)]
    advertise: Option<String>,
    /// Address of the coordinator.
    #[arg(long, env = "UNANIMO_ENDPOINT", default_value = "http://127.0.0.1:7610")]
    coordinator: String,
    /// Account to open, with its cents; may be repeated.
    #[arg(long = "account", value_name = "ID=CENTS", value_parser = account)]
    accounts: Vec<(String, i64)>,
}

fn account(text: &str) -> Result<(String, i64), String> {
    let (id, cents) = text.split_once('=').ok_or("must be ID=CENTS")?;
    let cents = cents.parse().map_err(|error| format!("CENTS must be a whole number: {error}"))?;
    Ok((id.to_owned(), cents))
}

impl Bank {
    /// Serves the bank, and opens its accounts, until a signal stops the process.
    ///
    /// The accounts are opened by [`Participant::set_up`], once what is in doubt can be ended: a prepared
    /// debit of an account that is named here would keep the insert waiting for ever, and the Commit that
    /// ends it would never be served.
    ///
    /// # Errors
    /// The database cannot be used, or the address is in use.
    pub async fn run(
        self,
        bank: impl FnOnce(&str, Postgres) -> Participant<Postgres>,
    ) -> anyhow::Result<()> {
        tracing_subscriber::fmt().with_writer(std::io::stderr).init();
        let database = Postgres::connect(&self.database_url).await?;
        let mut serve = Serve::on(self.listen).register_with(self.coordinator);
        if let Some(endpoint) = self.advertise {
            serve = serve.advertise(endpoint);
        }
        let accounts = self.accounts;
        let bank = bank(&self.name, database).set_up(move |db| {
            let accounts = accounts.clone();
            Box::pin(async move { Ok(accounts::open(db, &accounts).await?) })
        });
        let serving = bank.serve(serve).await?;
        serving.until_stopped().await?;
        Ok(())
    }
}

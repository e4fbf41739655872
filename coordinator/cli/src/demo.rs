//! `unanimo demo`: shows transfers between two banks, with faults, in a few seconds.

mod bank;
mod banks;
mod faults;
mod tour;

use std::process::ExitCode;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::error::Error;
use super::interruptions::Interruptions;

/// Watch transfers between two banks, with a refusal, a silent bank and a killed coordinator
///
/// Starts a coordinator in a process of its own and two small banks with a database each, and moves
/// money between them: a transfer that commits, one that is refused, one whose participant does not
/// answer, and one whose coordinator is killed with -9 after its decision and before its Commit is
/// delivered. The demo takes a few seconds and removes everything that it has made; with `--open` it does
/// so at Ctrl-C, and until then its coordinator shows all of it in the browser.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Use two-phase commit on this PostgreSQL server instead of TCC on SQLite files. Creates three
    /// databases there, and drops them at the end; needs `max_prepared_transactions` above 0.
    #[arg(long, value_name = "URL", value_parser = of_postgres)]
    postgres: Option<String>,

    /// Leave the coordinator running at the end, and open its dashboard in the browser, until Ctrl-C
    #[arg(long)]
    open: bool,
}

/// Progress of the demo, for whoever interrupts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It shows transfers. An interruption is a failure.
    Touring,
    /// The dashboard is open until somebody ends it.
    Open,
    /// Somebody has ended it.
    Over,
}

/// Failure of the tour.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Child(#[from] crate::child::Error),
    #[error("run a command: {0}")]
    Command(#[source] std::io::Error),
    #[error("make a folder for the databases: {0}")]
    Folder(#[source] std::io::Error),
    #[error("use a bank's database: {0}")]
    Sql(#[from] sqlx::Error),
    #[error("{0}")]
    Database(#[from] unanimo_sdk::DatabaseError),
    #[error(
        "use two-phase commit on this server: it allows no prepared transactions; set \
         max_prepared_transactions to 10 or more in its postgresql.conf and restart it, or run the demo \
         without --postgres"
    )]
    NotPrepared,
    #[error("make a bank: {0}")]
    Participant(#[from] unanimo_sdk::participant::Error),
    #[error("call the coordinator: {0}")]
    Client(#[from] unanimo_sdk::client::Error),
    #[error("serve a bank: {0}")]
    Serve(#[source] std::io::Error),
    #[error("show the expected result: {0}")]
    Surprise(String),
    #[error("{0}")]
    Output(Box<Error>),
}

fn of_postgres(url: &str) -> Result<String, String> {
    match ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme)) {
        true => Ok(url.to_owned()),
        false => Err("it must begin with postgres://".to_owned()),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Error> {
    let runtime =
        Runtime::new().map_err(|source| Error::System { doing: "start threads", source })?;
    let stage = watch::Sender::new(Stage::Touring);
    let result = runtime.block_on(async {
        tokio::select! {
            toured = tour::run(args.postgres.as_deref(), args.open.then_some(&stage)) => toured,
            () = interrupted(&stage) => {
                Err(Failure::Surprise("the demo was interrupted".to_owned()))
            }
        }
    });
    runtime.shutdown_background();
    match result {
        Ok(()) => Ok(ExitCode::SUCCESS),
        Err(Failure::Output(error)) => Err(*error),
        Err(failure) => Err(Error::Demo(failure)),
    }
}

/// Returns at an interruption of the tour, by Ctrl-C, an end of the terminal or `kill`. One while the dashboard is open
/// ends that.
async fn interrupted(stage: &watch::Sender<Stage>) {
    let mut interruptions = Interruptions::listen();
    loop {
        interruptions.next().await;
        let was_open = stage.send_if_modified(|stage| {
            let is_open = *stage == Stage::Open;
            *stage = if is_open { Stage::Over } else { *stage };
            is_open
        });
        if !was_open {
            return;
        }
    }
}

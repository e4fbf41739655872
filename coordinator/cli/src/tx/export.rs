//! `unanimo tx export`: gets the recorded history of a transaction as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

use unanimo_coordinator::joined_history;
use unanimo_proto::v1::{self, export_transaction_request};

use super::Server;
use super::client::{self, Client};
use super::target::Target;
use crate::error::Error;
use crate::output;
use crate::progress::Progress;
use crate::replay;

/// Export the recorded history of a transaction as JSON, for `unanimo replay`
///
/// It holds the definition, every input, and what each led to; of payloads and outputs it has the
/// sizes only. The setting `history` of the coordinator says which transactions have one: by default
/// sagas.
#[derive(Debug, clap::Args)]
pub(in crate::tx) struct Args {
    #[command(flatten)]
    target: Target,
    /// File to write; without it, standard output. A file that exists is not overwritten
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(server: &Server, args: Args) -> Result<ExitCode, Error> {
    let text = history(server, &args.target).await?;
    match args.output {
        None => output::print(&format!("{text}\n"))?,
        Some(path) => replay::write_new(&path, &text)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Gets the history of the transaction that this name stands for.
pub(crate) fn fetch(server: &Server, name: &str) -> Result<String, Error> {
    let target = Target::named(name);
    server.block_on(history(server, &target))
}

/// Gets all pages.
async fn history(server: &Server, target: &Target) -> Result<String, Error> {
    let mut client = Client::connect(server).await?;
    let tx_id = target.tx_id(&mut client).await?;
    let (mut pages, mut page_token) = (Vec::new(), String::new());
    let mut progress = Progress::of("pages of the history", None);
    loop {
        let requires = (!page_token.is_empty()).then(|| "history_pages".to_owned());
        let request = client.request(v1::ExportTransactionRequest {
            key: Some(export_transaction_request::Key::TxId(tx_id.clone())),
            requires: requires.into_iter().collect(),
            page_token,
            ..Default::default()
        });
        let told = client.coordinator.export_transaction(request).await;
        let page = told.map_err(client::Error::from)?.into_inner();
        pages.push(page.history_json);
        progress.at(u64::try_from(pages.len()).unwrap_or(u64::MAX));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let why = |error: serde_json::Error| replay::Error::Malformed {
        name: format!("the answer about {tx_id}"),
        why: error.to_string(),
    };
    Ok(joined_history(pages).map_err(why)?)
}

//! `unanimo tx export`: gets the recorded history of a transaction as JSON.

use std::path::PathBuf;
use std::process::ExitCode;

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
    Ok(joined(pages).map_err(why)?)
}

/// Makes one document of the pages: the last one, with the entries of all of them. What this version does not know
/// stays as it is.
fn joined(mut pages: Vec<String>) -> Result<String, serde_json::Error> {
    if pages.len() == 1 {
        return Ok(pages.remove(0));
    }
    let mut whole = serde_json::Value::Null;
    let mut entries = Vec::new();
    for page in pages {
        whole = serde_json::from_str(&page)?;
        if let Some(serde_json::Value::Array(of_page)) = whole.get_mut("entries") {
            entries.append(of_page);
        }
    }
    if let Some(serde_json::Value::Object(end)) = whole.get_mut("end") {
        end.insert("entries".to_owned(), entries.len().into());
    }
    whole["entries"] = entries.into();
    serde_json::to_string(&whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_the_last_one_with_all_entries() {
        let pages = [
            r#"{"format": "f", "later": 1, "entries": [{"version": 1}, {"version": 2}], "cut": {"entries": 3}}"#,
            r#"{"format": "f", "later": 2, "entries": [{"version": 3}], "cut": {"entries": 2}}"#,
            r#"{"format": "f", "later": 3, "entries": [], "cut": {"entries": 2}}"#,
        ];
        let whole = r#"{"format": "f", "later": 3, "entries": [{"version": 1}, {"version": 2}, {"version": 3}], "cut": {"entries": 2}}"#;
        let read = |text: &str| -> serde_json::Value { serde_json::from_str(text).expect("JSON") };
        let text = joined(pages.map(str::to_owned).into()).expect("JSON");
        assert_eq!(read(&text), read(whole));
        let pages = [
            r#"{"entries": [{"version": 1}, {"version": 2}], "cut": {"entries": 1}}"#,
            r#"{"entries": [{"version": 3}], "end": {"version": 3}}"#,
        ];
        let text = joined(pages.map(str::to_owned).into()).expect("JSON");
        assert_eq!(read(&text)["end"], read(r#"{"version": 3, "entries": 3}"#));
        assert_eq!(joined(vec!["as it is".to_owned()]).expect("one"), "as it is");
    }
}

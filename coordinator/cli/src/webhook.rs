//! `unanimo webhook`: how far webhooks are, and what their receivers did not take.

use std::process::ExitCode;

use serde::Serialize;
use unanimo_proto::v1;

use super::error::Error as CommandError;
use super::output::{self, clean, wide_table};
use super::tx::Server;
use super::tx::client::{self, Client};
use super::tx::words;

/// Description of the output of `--json`, for `--help`.
const JSON_HELP: &str = "\
JSON (--json): `list`: an object with webhooks, a list of objects with name,
  url, kinds (a list), gid_prefix, participant, state (delivering, failing,
  stopped), revision, failing_since, last_error, next_occurred_at,
  dead_letters. `dead-letters`: an object with dead_letters, a list of objects
  with webhook, revision, at, kind, tx_id, gid, died_at, attempts, last_error,
  due. `redeliver`: an object with count. `test`: an object with taken, error,
  event_id. A time that does not apply is null. Later versions may add keys.";

/// List and test webhooks, and send again what their receivers did not take
#[derive(Debug, clap::Args)]
#[command(after_long_help = JSON_HELP)]
pub(super) struct Args {
    #[command(flatten)]
    server: Server,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List the webhooks that are configured, and how far each is
    List,
    /// List events that were given up, because a receiver did not take them
    DeadLetters {
        /// Only those of this webhook
        #[arg(value_name = "NAME", default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Have dead letters sent again, once each; what is not taken stays a dead letter
    #[command(
        override_usage = "unanimo webhook redeliver [OPTIONS] <--revision <REVISION>|--all> <NAME>"
    )]
    Redeliver {
        /// The webhook
        #[arg(value_name = "NAME")]
        name: String,
        /// The dead letter of this revision
        #[arg(long, value_name = "REVISION", required_unless_present = "all", conflicts_with = "all",
              value_parser = clap::value_parser!(u64).range(1..))]
        revision: Option<u64>,
        /// All dead letters of the webhook
        #[arg(long)]
        all: bool,
        /// Your name, for the audit
        #[arg(
            long,
            value_name = "NAME",
            env = "USER",
            default_value = "",
            hide_default_value = true
        )]
        operator: String,
        /// Reason, for the audit
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        note: String,
    },
    /// Send a test event to the receiver of a webhook, once
    ///
    /// Exit codes: 0 it was taken; 1 it was not, or the command failed; 2 an argument is wrong.
    Test {
        /// The webhook
        #[arg(value_name = "NAME")]
        name: String,
        /// Your name, for the audit
        #[arg(
            long,
            value_name = "NAME",
            env = "USER",
            default_value = "",
            hide_default_value = true
        )]
        operator: String,
    },
}

/// Webhook, as JSON. Keys are only ever added.
#[derive(Serialize)]
struct Webhook {
    name: String,
    url: String,
    kinds: Vec<String>,
    gid_prefix: String,
    participant: String,
    state: String,
    revision: u64,
    failing_since: Option<String>,
    last_error: String,
    next_occurred_at: Option<String>,
    dead_letters: u64,
}

/// Dead letter, as JSON. Keys are only ever added.
#[derive(Serialize)]
struct DeadLetter {
    webhook: String,
    revision: u64,
    at: Option<String>,
    kind: String,
    tx_id: String,
    gid: String,
    died_at: Option<String>,
    attempts: u32,
    last_error: String,
    due: bool,
}

pub(super) fn run(args: Args) -> Result<ExitCode, CommandError> {
    let Args { server, command } = args;
    match command {
        Command::List => server.block_on(list(&server)),
        Command::DeadLetters { name } => server.block_on(dead_letters(&server, name)),
        Command::Redeliver { name: webhook, revision, operator, note, .. } => {
            let (revision, requires) = (revision.unwrap_or(0), Vec::new());
            let request =
                v1::RedeliverEventsRequest { webhook, revision, operator, requires, note };
            server.block_on(redeliver(&server, request))
        }
        Command::Test { name, operator } => server.block_on(test(&server, name, operator)),
    }
}

async fn list(server: &Server) -> Result<ExitCode, CommandError> {
    let mut client = Client::connect(server).await?;
    let request = client.request(v1::ListWebhooksRequest::default());
    let found = client.operator.list_webhooks(request).await.map_err(client::Error::from)?;
    let webhooks: Vec<Webhook> =
        found.into_inner().webhooks.into_iter().map(Webhook::from).collect();
    if server.json {
        output::print_json(&serde_json::json!({ "webhooks": webhooks }))?;
    } else if webhooks.is_empty() {
        output::note("no webhooks are configured");
    } else {
        let header = ["NAME", "STATE", "REVISION", "DEAD LETTERS", "NEXT OF", "URL", "LAST ERROR"];
        let rows = webhooks.iter().map(|webhook| {
            [
                webhook.name.clone(),
                webhook.state.clone(),
                webhook.revision.to_string(),
                webhook.dead_letters.to_string(),
                webhook.next_occurred_at.clone().unwrap_or_default(),
                clean(&webhook.url),
                clean(&webhook.last_error),
            ]
        });
        output::print(&wide_table(header, rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn dead_letters(server: &Server, webhook: String) -> Result<ExitCode, CommandError> {
    let mut client = Client::connect(server).await?;
    let (mut letters, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = client.request(v1::ListDeadLettersRequest {
            webhook: webhook.clone(),
            page_size: u32::MAX,
            page_token,
            requires: Vec::new(),
        });
        let page = client.operator.list_dead_letters(request).await;
        let page = page.map_err(client::Error::from)?.into_inner();
        letters.extend(page.dead_letters.into_iter().map(DeadLetter::from));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if server.json {
        output::print_json(&serde_json::json!({ "dead_letters": letters }))?;
    } else if letters.is_empty() {
        output::note("there are no dead letters");
    } else {
        let header =
            ["WEBHOOK", "REVISION", "KIND", "GID", "GIVEN UP", "ATTEMPTS", "DUE", "LAST ERROR"];
        let rows = letters.iter().map(|letter| {
            [
                letter.webhook.clone(),
                letter.revision.to_string(),
                letter.kind.clone(),
                clean(&letter.gid),
                letter.died_at.clone().unwrap_or_default(),
                letter.attempts.to_string(),
                if letter.due { "yes".to_owned() } else { String::new() },
                clean(&letter.last_error),
            ]
        });
        output::print(&wide_table(header, rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn redeliver(
    server: &Server,
    request: v1::RedeliverEventsRequest,
) -> Result<ExitCode, CommandError> {
    let mut client = Client::connect(server).await?;
    let request = client.request(request);
    let answer = client.operator.redeliver_events(request).await;
    let count = answer.map_err(client::Error::from)?.into_inner().count;
    if server.json {
        output::print_json(&serde_json::json!({ "count": count }))?;
    } else {
        output::note(&format!("{count} to be sent again"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn test(
    server: &Server,
    webhook: String,
    operator: String,
) -> Result<ExitCode, CommandError> {
    let mut client = Client::connect(server).await?;
    let request =
        client.request(v1::TestWebhookRequest { webhook, operator, requires: Vec::new() });
    let answer = client.operator.test_webhook(request).await.map_err(client::Error::from)?;
    let v1::TestWebhookResponse { taken, error, event_id } = answer.into_inner();
    if server.json {
        let json = serde_json::json!({ "taken": taken, "error": error, "event_id": event_id });
        output::print_json(&json)?;
    } else if taken {
        output::note(&format!("{event_id} was taken"));
    } else {
        output::note(&format!("{event_id} was not taken: {}", clean(&error)));
    }
    Ok(if taken { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl From<v1::Webhook> for Webhook {
    fn from(webhook: v1::Webhook) -> Self {
        Self {
            state: word(webhook.state().as_str_name(), "WEBHOOK_STATE_"),
            kinds: webhook
                .kinds()
                .map(|kind| word(kind.as_str_name(), "TRANSACTION_EVENT_KIND_"))
                .collect(),
            name: webhook.name,
            url: webhook.url,
            gid_prefix: webhook.gid_prefix,
            participant: webhook.participant,
            revision: webhook.revision,
            failing_since: webhook.failing_since.map(words::time),
            last_error: webhook.last_error,
            next_occurred_at: webhook.next_occurred_at.map(words::time),
            dead_letters: webhook.dead_letters,
        }
    }
}

impl From<v1::DeadLetter> for DeadLetter {
    fn from(letter: v1::DeadLetter) -> Self {
        let event = letter.event.unwrap_or_default();
        Self {
            webhook: letter.webhook,
            revision: event.revision,
            at: event.occurred_at.map(words::time),
            kind: word(event.kind().as_str_name(), "TRANSACTION_EVENT_KIND_"),
            tx_id: event.tx_id,
            gid: event.gid,
            died_at: letter.died_at.map(words::time),
            attempts: letter.attempts,
            last_error: letter.last_error,
            due: letter.due,
        }
    }
}

fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

//! Page of one transaction, and its recorded history as a file.

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use unanimo_core::history::Document;

use super::chart::{Chart, Recording};
use super::data::{Found, Tx};
use super::response::{Named, guarded};
use super::{Looking, Pages, either, made, problem, read, words};
use crate::api::http::{Http, encoded};
use crate::api::joined_history;

/// Most entries of a history that its picture is made of. A longer one is drawn as if nothing were recorded.
const DRAWN_MAX: u32 = 300;

#[derive(Template)]
#[template(path = "transaction.html")]
pub(super) struct Transaction {
    pub(super) here: &'static str,
    pub(super) tx: Tx,
    pub(super) chart: Chart,
    /// Picture of a saga.
    pub(super) graph: Option<String>,
    /// Address of its trace; empty if none is set.
    pub(super) trace_link: String,
    pub(super) may_act: bool,
    /// Its history was recorded, and whoever looks may have it.
    pub(super) has_history: bool,
    /// It is of a coordinator, and other transactions have pages.
    pub(super) is_live: bool,
}

/// Answer of ExportTransaction.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Exported {
    history_json: String,
    next_page_token: String,
}

/// Returns the address of a page of a transaction's history.
fn export_of(tx_id: &str, query: &str) -> String {
    format!("/v1/tx/{}:export{query}", encoded(tx_id))
}

pub(super) async fn page(
    State(pages): State<Pages>,
    Named(tx_id): Named<String>,
    request: Request,
) -> Response {
    let looking = pages.looking(&request);
    either(
        async move {
            let address = format!(
                "/v1/tx/{}?includeOutputs=true&includePayloads=true&includeTimeline=true",
                encoded(&tx_id)
            );
            let answer: Value = looking.ask(&address).await?;
            let is_saga = answer["transaction"]["mode"] == "MODE_SAGA";
            let graph = if is_saga { Http::drawn(&answer["transaction"]) } else { None };
            let found: Found = read(&address, answer).map_err(|bad| problem(&bad))?;
            let (tx, may_act) = (found.transaction, looking.may_act());
            let exported = looking.recorded(&tx, is_saga).await;
            let recording = exported.as_ref().and_then(Exported::recording);
            let chart = Chart::of(&tx, recording.as_ref(), words::now());
            let trace_link =
                looking.api().map_or_else(|_| String::new(), |api| api.trace_link(&tx.trace_id));
            let page = Transaction {
                here: "/transactions",
                tx,
                chart,
                graph,
                trace_link,
                may_act,
                has_history: exported.is_some(),
                is_live: true,
            };
            Ok(made(StatusCode::OK, &page))
        }
        .await,
    )
}

/// Leads from a gid to its transaction.
pub(super) async fn of_gid(
    State(pages): State<Pages>,
    Named(gid): Named<String>,
    request: Request,
) -> Response {
    let looking = pages.looking(&request);
    either(
        async move {
            let found: Found = looking.ask(&format!("/v1/transactions/{}", encoded(&gid))).await?;
            let to = format!("/tx/{}", found.transaction.tx_id);
            Ok(guarded(Redirect::to(&to).into_response()))
        }
        .await,
    )
}

/// Answers the whole history as a file, for `unanimo view` and `unanimo replay`.
pub(super) async fn history(
    State(pages): State<Pages>,
    Named(tx_id): Named<String>,
    request: Request,
) -> Response {
    let looking = pages.looking(&request);
    either(
        async move {
            // Whoever may have none waits for nobody else's.
            let who = looking.exporter().map_err(|bad| problem(&bad))?;
            let made = pages.exporting.in_turn(&who, looking.whole_history(&tx_id)).await;
            let made = made.ok_or_else(|| {
                let detail = "Others are being made: try again in a moment.";
                problem(&json!({ "status": 503, "title": "The history cannot be made now", "detail": detail }))
            })?;
            Ok(as_file(&tx_id, made?))
        }
        .await,
    )
}

fn as_file(tx_id: &str, json: String) -> Response {
    let plain = tx_id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-');
    let name = format!("attachment; filename=\"unanimo-{}.json\"", plain.collect::<String>());
    let mut response =
        guarded(([(header::CONTENT_TYPE, "application/json")], json).into_response());
    let name = HeaderValue::from_str(&name).expect("letters, digits and hyphens");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    response
}

impl Exported {
    /// Returns what was recorded, if this is all of it.
    fn recording(&self) -> Option<Recording> {
        let document: Document = serde_json::from_str(&self.history_json).ok()?;
        self.next_page_token.is_empty().then(|| Recording::of(&document))
    }
}

impl Looking {
    /// Returns the name of whoever is about to wait for a history. The error is a problem.
    fn exporter(&self) -> Result<String, Value> {
        self.api()?.exporter(&self.asker)
    }

    /// Returns the begin of a recorded history, if there is one that whoever looks may have.
    async fn recorded(&self, tx: &Tx, is_saga: bool) -> Option<Exported> {
        let may = self.api().is_ok_and(|api| api.may_have_history(is_saga, &self.asker));
        if tx.stripped || !may {
            return None;
        }
        let address = export_of(&tx.tx_id, &format!("?pageSize={DRAWN_MAX}"));
        self.get(&address)
            .await
            .ok()
            .filter(|exported: &Exported| !exported.history_json.is_empty())
    }

    /// Returns all of a recorded history.
    async fn whole_history(&self, tx_id: &str) -> Result<String, Response> {
        let (mut parts, mut token) = (Vec::new(), String::new());
        loop {
            let query = format!("?pageToken={}", encoded(&token));
            let exported: Exported = self.ask(&export_of(tx_id, &query)).await?;
            parts.push(exported.history_json);
            token = exported.next_page_token;
            if token.is_empty() {
                break;
            }
        }
        joined_history(parts).map_err(|error| {
            tracing::error!(%error, tx_id, "the pages of a history cannot be joined");
            problem(&json!({ "status": 500, "title": "The history cannot be made" }))
        })
    }
}

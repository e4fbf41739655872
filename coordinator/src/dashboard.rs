//! Pages for people: what goes on, what needs a person, and one transaction drawn.
//!
//! They are made of answers of the [API over HTTP](crate::api::http), asked for in the name of whoever looks, so that
//! roles hold. Operators [act](acts) by them.

mod acts;
mod advice;
mod alarms;
mod chart;
mod data;
mod exporting;
mod filter;
mod one;
mod pulse;
mod recorded;
mod response;
mod shared;
#[cfg(test)]
mod tests;
mod text;
mod webhooks;
mod words;

use std::sync::Arc;
use std::time::Instant;

use askama::Template;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use unanimo_tls::Peer;

use self::acts::Acts;
use self::alarms::Alarm;
use self::data::{Counts, Info, List, Participant, Participants, Tx};
use self::exporting::Exporting;
use self::filter::Filter;
use self::pulse::Statistics;
pub use self::recorded::Recorded;
use self::response::{assets, guarded, made, nothing, problem};
use self::shared::ByNamespace;
use crate::api::http::{Act, Asker, Http, Slot, encoded};

/// Addresses and names of the pages.
const PAGES: &[(&str, &str)] = &[
    ("/", "Overview"),
    ("/attention", "Attention"),
    ("/transactions", "Transactions"),
    ("/participants", "Participants"),
    ("/system", "System"),
];

/// Transactions of a list on the overview.
const FEW: usize = 10;

/// Returns who looks, if TLS knows it.
pub(crate) type PeerOf = fn(&Request) -> Option<Peer>;

#[derive(Clone)]
struct Pages {
    api: Slot,
    peer_of: PeerOf,
    /// Numbers of all transactions, which are the same for all of a namespace who may see them.
    counts: Arc<ByNamespace<Counts>>,
    acts: Arc<Acts>,
    exporting: Arc<Exporting>,
}

/// Makes the router of the pages.
pub(crate) fn router(api: Slot, peer_of: PeerOf) -> Router {
    assets(Router::new())
        .route("/", get(overview))
        .route("/attention", get(attention))
        .route("/transactions", get(transactions))
        .route("/tx/{tx_id}", get(one::page))
        .route("/tx/{tx_id}/history.json", get(one::history))
        .route("/gid/{gid}", get(one::of_gid))
        .route("/participants", get(participants))
        .route("/system", get(system))
        .merge(acts::router())
        .fallback(nothing)
        .with_state(Pages {
            api,
            peer_of,
            counts: Arc::default(),
            acts: Arc::new(Acts::new()),
            exporting: Arc::default(),
        })
}

#[derive(Template)]
#[template(path = "overview.html")]
struct Overview {
    here: &'static str,
    attention: Vec<Tx>,
    more: bool,
    /// Nothing where they could not be counted a moment ago.
    counts: Option<Arc<Counts>>,
    newest: Vec<Tx>,
    pulse: Statistics,
}

/// Number on the overview.
struct Figure {
    name: &'static str,
    value: String,
    more: String,
    is_bad: bool,
}

#[derive(Template)]
#[template(path = "attention.html")]
struct Attention {
    here: &'static str,
    list: Vec<Tx>,
    next: String,
    /// Time of the begin of the last one that was looked at.
    back_to: String,
    may_act: bool,
    /// Alarms that are of no transaction.
    alarms: Vec<Alarm>,
}

#[derive(Template)]
#[template(path = "transactions.html")]
struct Transactions {
    here: &'static str,
    filter: Filter,
    /// Fault of the filter; empty if it has none.
    wrong: String,
    list: Vec<Tx>,
    next: String,
    /// Time of the begin of the last one that was looked at.
    back_to: String,
}

#[derive(Template)]
#[template(path = "participants.html")]
struct ParticipantsPage {
    here: &'static str,
    list: Vec<Participant>,
    next: String,
}

impl ParticipantsPage {
    /// Tells whether any participant has a version.
    fn has_versions(&self) -> bool {
        self.list.iter().any(|participant| !participant.versions.is_empty())
    }
}

#[derive(Template)]
#[template(path = "system.html")]
struct System {
    here: &'static str,
    info: Info,
    limits: Vec<(String, String)>,
    state: Statistics,
    webhooks: webhooks::Webhooks,
}

/// Who looks, and by which means the answers are asked for.
#[derive(Clone, Debug)]
struct Looking {
    api: Slot,
    asker: Asker,
}

impl Pages {
    fn looking(&self, request: &Request) -> Looking {
        let asker = Asker::new(request, (self.peer_of)(request));
        Looking { api: Arc::clone(&self.api), asker }
    }
}

type Page = Result<Response, Response>;

impl Looking {
    /// Returns the API. The error is a problem.
    fn api(&self) -> Result<&Http, Value> {
        self.api.get().ok_or_else(|| {
            json!({
                "status": 503, "title": "The coordinator does not serve yet",
                "detail": "It starts, or is a standby: /readyz tells what it waits for.",
            })
        })
    }

    /// Asks the API for what is at this address. The error is a problem.
    async fn get<T: DeserializeOwned>(&self, address: &str) -> Result<T, Value> {
        read(address, self.api()?.look(address, &self.asker).await?)
    }

    /// Acts by the call at this address. The error is a problem.
    async fn post<T: DeserializeOwned>(&self, address: &str, body: &Value) -> Result<T, Value> {
        read(address, self.api()?.act(address, &self.asker, body).await?)
    }

    /// Asks the API for what is at this address.
    async fn ask<T: DeserializeOwned>(&self, address: &str) -> Result<T, Response> {
        self.get(address).await.map_err(|bad| problem(&bad))
    }

    /// Returns the name of whoever is about to act, by a form or to see one. The error is a problem.
    fn actor(&self, act: Act, is_form: bool) -> Result<String, Value> {
        self.api()?.actor(act, &self.asker, is_form)
    }

    /// Returns the namespace of whoever looks, if it is of one.
    fn namespace(&self) -> Option<String> {
        self.api().map_or_else(|_| Some(String::new()), |api| api.namespace(&self.asker))
    }

    /// Tells whether whoever looks may see the numbers of the process.
    fn may_see_statistics(&self) -> bool {
        self.api().is_ok_and(|api| api.may_see_statistics(&self.asker))
    }

    /// Tells whether whoever looks may list transactions without a filter.
    fn may_list(&self) -> bool {
        self.api().is_ok_and(|api| api.may_list(&self.asker))
    }

    /// Tells whether whoever looks may act.
    fn may_act(&self) -> bool {
        self.api().is_ok_and(|api| api.may_act(&self.asker))
    }
}

fn read<T: DeserializeOwned>(address: &str, answer: Value) -> Result<T, Value> {
    serde_json::from_value(answer).map_err(|error| {
        tracing::error!(%error, address, "an answer has another form than a page expects");
        json!({ "status": 500, "title": "The page cannot be made" })
    })
}

/// Returns the filter in an address. The error is what is wrong with it.
fn filter_of(request: &Request) -> Result<Filter, String> {
    Filter::of(request.uri().query().unwrap_or_default())
}

/// Returns the page that an address asks for, where the list has no filter. The error is what is wrong with it.
fn page_of(request: &Request) -> Result<Filter, String> {
    Filter::of_page(request.uri().query().unwrap_or_default())
}

fn bad_filter(why: &str) -> Response {
    problem(&json!({ "status": 400, "title": "This is no filter", "detail": why }))
}

fn either(page: Page) -> Response {
    page.unwrap_or_else(|problem| problem)
}

async fn overview(State(pages): State<Pages>, request: Request) -> Response {
    let looking = pages.looking(&request);
    // An initiator sees what it began, and the numbers are of all.
    if !looking.may_see_statistics() && looking.may_list() {
        return guarded(Redirect::to("/transactions").into_response());
    }
    either(overview_of(&pages, &looking).await)
}

async fn overview_of(pages: &Pages, looking: &Looking) -> Page {
    let counts = counts(pages, looking).await?;
    let newest: List = looking.ask(&format!("/v1/transactions?pageSize={FEW}")).await?;
    let address = format!("/v1/transactions?attention=true&pageSize={FEW}");
    let attention: List = looking.ask(&address).await?;
    let page = Overview {
        here: "/",
        more: !attention.next_page_token.is_empty(),
        attention: attention.transactions,
        counts,
        newest: newest.transactions,
        pulse: looking.ask("/v1/statistics").await?,
    };
    Ok(made(StatusCode::OK, &page))
}

/// Returns the numbers of all transactions, for whoever may see them. Counting reads up to millions of rows.
async fn counts(pages: &Pages, looking: &Looking) -> Result<Option<Arc<Counts>>, Response> {
    // Participants are for the same roles as the numbers, and cost nothing: so what another one had counted is shown to
    // these alone.
    let _: Value = looking.ask("/v1/participants?pageSize=1").await?;
    let count = async {
        let since = encoded(&words::ago(60));
        let address =
            format!("/v1/transactions?pageSize=1&includeCounts=true&countsEndedFrom={since}");
        let mut list: List = looking.ask(&address).await?;
        list.counts.counted_at = words::ago(0);
        Ok(list.counts)
    };
    pages.counts.of(looking.namespace()).get(Instant::now, count).await
}

async fn attention(State(pages): State<Pages>, request: Request) -> Response {
    let filter = page_of(&request);
    let looking = pages.looking(&request);
    either(
        async move {
            let token = encoded(&filter.map_err(|why| bad_filter(&why))?.page_token);
            let address = format!("/v1/transactions?attention=true&pageToken={token}");
            let found: List = looking.ask(&address).await?;
            let next = match found.next_page_token.as_str() {
                "" => String::new(),
                token => format!("/attention?pageToken={}", encoded(token)),
            };
            let back_to = words::back_to(&found.next_page_token);
            let (mut list, may_act) = (found.transactions, looking.may_act());
            looking.explain(&mut list).await;
            let alarms = looking.alarms().await;
            let page = Attention { here: "/attention", list, next, back_to, may_act, alarms };
            Ok(made(StatusCode::OK, &page))
        }
        .await,
    )
}

async fn transactions(State(pages): State<Pages>, request: Request) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let (filter, wrong) = match Filter::of(query) {
        Ok(filter) => (filter, String::new()),
        Err(why) => (Filter::typed(query), why),
    };
    either(transactions_of(&pages.looking(&request), filter, wrong).await)
}

/// Makes the list. What is wrong with a filter is said above it, and the form keeps what was typed.
async fn transactions_of(looking: &Looking, filter: Filter, mut wrong: String) -> Page {
    let mut found = List::default();
    if wrong.is_empty() {
        let address = format!("/v1/transactions?{}", filter.question());
        match looking.get(&address).await {
            Ok(list) => found = list,
            Err(bad) if bad["status"] == 400 => {
                wrong = bad["detail"].as_str().unwrap_or("This is no filter.").to_owned();
            }
            Err(bad) => return Err(problem(&bad)),
        }
    }
    let next = match found.next_page_token.as_str() {
        "" => String::new(),
        token => format!("/transactions?{}", filter.after(token).query()),
    };
    let back_to = words::back_to(&found.next_page_token);
    let code = if wrong.is_empty() { StatusCode::OK } else { StatusCode::BAD_REQUEST };
    let list = found.transactions;
    let page = Transactions { here: "/transactions", filter, wrong, list, next, back_to };
    Ok(made(code, &page))
}

async fn participants(State(pages): State<Pages>, request: Request) -> Response {
    let filter = page_of(&request);
    let looking = pages.looking(&request);
    either(
        async move {
            let token = encoded(&filter.map_err(|why| bad_filter(&why))?.page_token);
            let address = format!("/v1/participants?pageToken={token}");
            let found: Participants = looking.ask(&address).await?;
            let next = match found.next_page_token.as_str() {
                "" => String::new(),
                token => format!("/participants?pageToken={}", encoded(token)),
            };
            let page = ParticipantsPage { here: "/participants", list: found.participants, next };
            Ok(made(StatusCode::OK, &page))
        }
        .await,
    )
}

async fn system(State(pages): State<Pages>, request: Request) -> Response {
    let looking = pages.looking(&request);
    either(
        async move {
            let info: Info = looking.ask("/v1/server").await?;
            let limits = info.limits.iter().map(|(name, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                (words::spaced(name), words::limit(name, &value))
            });
            // The version and the limits are for every role, and the rest is not.
            let state = match looking.may_see_statistics() {
                true => {
                    looking
                        .ask("/v1/statistics?includeSettings=true&includeIncarnations=true")
                        .await?
                }
                false => Statistics::default(),
            };
            let (limits, webhooks) = (limits.collect(), webhooks::Webhooks::of(&looking).await);
            let page = System { here: "/system", limits, info, state, webhooks };
            Ok(made(StatusCode::OK, &page))
        }
        .await,
    )
}

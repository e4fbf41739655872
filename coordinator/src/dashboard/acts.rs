//! Acts of operators: a page that says what an act will do, a form that is sent once, and a page with what came of it.
//!
//! The calls are those of the [API over HTTP](crate::api::http) in the name of whoever sends the form, so roles, the audit
//! and every check are theirs. An act on many transactions goes on when its page is closed, at a bounded pace.

pub(super) mod forms;
mod many;
mod order;
mod runs;
#[cfg(test)]
mod tests;
mod words;

use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http_body_util::{BodyExt, Collected, Limited};
use serde::de::IgnoredAny;
use serde_json::json;
use uuid::Uuid;

use self::forms::{Fields, Form, Forms, MARK};
use self::many::Many;
use self::order::Order;
use self::runs::{Begun, Ended, Progress, Run, Runs};
use super::data::Found;
use super::response::Named;
use super::{Looking, Page, Pages, either, made, problem, words as shown};
use crate::api::http::{Act, encoded};

/// Most bytes of a form: an output of a branch is the largest field.
const FORM_BYTES_MAX: usize = 256 << 10;

/// Longest time for a form to arrive.
const FORM_PATIENCE: Duration = Duration::from_secs(10);

/// State of the acts.
#[derive(Debug)]
pub(super) struct Acts {
    forms: Forms,
    runs: Runs,
}

impl Acts {
    pub(super) fn new() -> Self {
        Self { forms: Forms::new(), runs: Runs::default() }
    }
}

/// Makes the router of the acts.
pub(super) fn router() -> axum::Router<Pages> {
    axum::Router::new()
        .route("/tx/{tx_id}/{act}", get(ask_one).post(send_one))
        .route("/attention/{act}", get(many::ask).post(many::send))
        .route("/acts/{id}", get(shown_run))
        .route("/acts/{id}/stop", post(stop))
}

#[derive(Template)]
#[template(path = "act.html")]
struct Ask {
    here: &'static str,
    title: String,
    /// Its effect, in sentences.
    says: Vec<String>,
    /// Reason for which there is nothing to do.
    nothing: String,
    address: String,
    back: String,
    mark: String,
    /// Its name is known by its identity, and not asked for.
    who: String,
    /// Branches of which one is chosen.
    branches: Vec<String>,
    branch: String,
    is_resolve: bool,
    may_have_output: bool,
    /// Participants that may hold something still.
    held: Vec<String>,
    /// The act is on many: they are counted.
    many: Option<Many>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct Shown {
    here: &'static str,
    run: Arc<Run>,
    progress: Progress,
    mark: String,
}

impl Shown {
    fn is_over(&self) -> bool {
        self.progress.ended.is_some()
    }

    fn passed(&self) -> u64 {
        self.progress.done + self.progress.refused
    }

    /// Returns how it stands, in a sentence.
    fn sentence(&self) -> String {
        let Progress { done, refused, said, ended, .. } = &self.progress;
        let of = format!("{done} done, {refused} refused, of {}", self.run.total);
        match ended {
            None => format!("Under way: {of}."),
            Some(Ended::Whole) if self.run.total == 1 && *refused == 0 && !said.is_empty() => {
                said.clone()
            }
            Some(Ended::Whole) if self.run.total == 1 && *refused == 1 => {
                "It was refused.".to_owned()
            }
            Some(Ended::Whole) => format!("Finished: {of}."),
            Some(Ended::Stopped) => format!("Stopped: {of}."),
            Some(Ended::Failed(why)) => format!("It ended early: {why}. {of}."),
        }
    }

    fn tone(&self) -> &'static str {
        match &self.progress.ended {
            None => "",
            Some(Ended::Whole) if self.progress.refused == 0 => "good",
            Some(_) => "bad",
        }
    }
}

fn refused(status: StatusCode, title: &str, detail: &str) -> Response {
    problem(&json!({ "status": status.as_u16(), "title": title, "detail": detail }))
}

fn act_of(name: &str) -> Option<Act> {
    words::ACTS.iter().find(|(_, of)| *of == name).map(|(act, _)| *act)
}

fn no_act() -> Response {
    refused(StatusCode::NOT_FOUND, "Nothing is there", "An act is retry, resolve or forget.")
}

/// Form that was sent, by whoever may send it.
struct Sent {
    who: String,
    form: Form,
    fields: Fields,
}

impl Sent {
    /// Returns the refusal of a retry without a reason. The calls of the others do so themselves.
    fn without_reason(&self, act: Act) -> Option<Response> {
        if act != Act::Retry || !self.fields.get("note").trim().is_empty() {
            return None;
        }
        let why = "Give your reason: it is entered in the audit. Nothing was done.";
        Some(refused(StatusCode::BAD_REQUEST, "A reason is needed", why))
    }

    /// Tells why an output is not the JSON that it is said to be where it is stored: who reads it could not read anything
    /// else.
    fn bad_output(&self) -> Option<String> {
        let output = self.fields.get("output");
        let error =
            serde_json::from_str::<IgnoredAny>(output).err().filter(|_| !output.is_empty())?;
        Some(format!("The field output must be JSON: {error}. Nothing was done."))
    }
}

impl Pages {
    /// Reads a form, after its sender was admitted.
    async fn sent(&self, looking: &Looking, act: Act, request: Request) -> Result<Sent, Response> {
        let who = looking.actor(act, true).map_err(|bad| problem(&bad))?;
        let address = request.uri().path().to_owned();
        let media_type = request.headers().get(header::CONTENT_TYPE);
        let is_form = media_type
            .is_some_and(|of| of.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
        if !is_form {
            let why = "A form has the content-type application/x-www-form-urlencoded.";
            return Err(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "This is no form", why));
        }
        let body = Limited::new(request.into_body(), FORM_BYTES_MAX).collect();
        let body = tokio::time::timeout(FORM_PATIENCE, body).await.ok().and_then(Result::ok);
        let Some(body) = body.map(Collected::to_bytes) else {
            let why = "It is too large, or came too slowly.";
            return Err(refused(StatusCode::PAYLOAD_TOO_LARGE, "The form cannot be read", why));
        };
        let fields = Fields::of(&String::from_utf8_lossy(&body));
        let form = self.acts.forms.check(fields.get(MARK), &who, &address, shown::now());
        let Some(form) = form else {
            let why = "It is older than an hour or than this process, or it was shown to somebody else, or for something \
                       else. Nothing was done. Open the page again.";
            return Err(refused(StatusCode::FORBIDDEN, "This form does not count", why));
        };
        Ok(Sent { who, form, fields })
    }

    /// Begins a run, unless its form has begun one, and leads to its page.
    async fn begin<F>(&self, run: Run, work: impl FnOnce(Arc<Run>) -> F) -> Response
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let run = match self.acts.runs.begin(run, shown::now()) {
            Begun::Before(run) => run,
            Begun::New(run) => {
                runs::spawn(&run, work(Arc::clone(&run)));
                run
            }
            Begun::Gone => {
                let why = "What came of it is not kept any more. Nothing was done now. The audit has it: unanimo audit list.";
                return refused(StatusCode::CONFLICT, "This form was sent before", why);
            }
            Begun::TooMany => {
                let why = "So many acts are under way that one more has to wait. Nothing was done.";
                return refused(StatusCode::SERVICE_UNAVAILABLE, "Too much is under way", why);
            }
        };
        run.wait_for_end().await;
        led_to(&run)
    }
}

impl Looking {
    /// Looks on when the request is answered.
    fn beyond_its_request(self) -> Self {
        Self { asker: self.asker.beyond_its_request(), ..self }
    }
}

impl Order {
    fn of(act: Act, looking: Looking, Sent { who, fields, .. }: &Sent) -> Self {
        let text = |name| fields.get(name).to_owned();
        Self {
            act,
            looking: looking.beyond_its_request(),
            operator: if who.is_empty() { text("operator") } else { who.clone() },
            note: text("note"),
            branch: text("branch"),
            resolution: text("resolution"),
            output: text("output"),
            released: fields.get("released") == "true",
        }
    }
}

type OfOne = (String, String);

async fn ask_one(
    State(pages): State<Pages>,
    Named(of): Named<OfOne>,
    request: Request,
) -> Response {
    either(ask_one_of(&pages, of, request).await)
}

async fn ask_one_of(pages: &Pages, (tx_id, name): OfOne, request: Request) -> Page {
    let (looking, act) = (pages.looking(&request), act_of(&name).ok_or_else(no_act)?);
    let who = looking.actor(act, false).map_err(|bad| problem(&bad))?;
    let found: Found = looking.ask(&format!("/v1/tx/{}", encoded(&tx_id))).await?;
    let tx = found.transaction;
    let address = request.uri().path().to_owned();
    let branch = Fields::of(request.uri().query().unwrap_or_default()).get("branch").to_owned();
    let may_be = tx.branches.iter().filter(|of| match act {
        Act::Resolve => of.may_be_resolved(),
        _ => of.is_open(),
    });
    let branches: Vec<_> = may_be.map(|of| of.branch_id.clone()).collect();
    let page = Ask {
        here: "/transactions",
        title: words::title(act, tx.name()),
        says: words::says(act, &tx),
        nothing: words::nothing(act, &tx, &branches),
        mark: pages.acts.forms.mark(&who, &address, shown::now()),
        address,
        back: format!("/tx/{}", encoded(&tx.tx_id)),
        branch,
        branches: if act == Act::Forget { Vec::new() } else { branches },
        is_resolve: act == Act::Resolve,
        may_have_output: act == Act::Resolve && tx.mode == "MODE_SAGA",
        held: if act == Act::Forget { words::held(&tx) } else { Vec::new() },
        many: None,
        who,
    };
    Ok(made(StatusCode::OK, &page))
}

async fn send_one(
    State(pages): State<Pages>,
    Named(of): Named<OfOne>,
    request: Request,
) -> Response {
    either(send_one_of(&pages, of, request).await)
}

async fn send_one_of(pages: &Pages, (tx_id, name): OfOne, request: Request) -> Page {
    let (looking, act) = (pages.looking(&request), act_of(&name).ok_or_else(no_act)?);
    let sent = pages.sent(&looking, act, request).await?;
    if let Some(refused) = sent.without_reason(act) {
        return Err(refused);
    }
    if let Some(why) = sent.bad_output() {
        return Err(refused(StatusCode::BAD_REQUEST, "The output is no JSON", &why));
    }
    let back = format!("/tx/{}", encoded(&tx_id));
    let named = looking.ask::<Found>(&format!("/v1/tx/{}", encoded(&tx_id))).await?.transaction;
    let run =
        Run::new(sent.form, words::title(act, named.name()), back, 1).within(looking.namespace());
    let order = Order::of(act, looking, &sent);
    let work = |run: Arc<Run>| async move { order.one(&run, &named.tx_id, named.name()).await };
    Ok(pages.begin(run, work).await)
}

impl Pages {
    /// Finds a run that whoever looks may see.
    fn run(&self, id: &str, looking: &Looking) -> Option<Arc<Run>> {
        let run = self.acts.runs.find(Uuid::parse_str(id).ok()?)?;
        run.is_for(looking.namespace().as_deref()).then_some(run)
    }
}

fn no_run() -> Response {
    let why = "Results are kept for the last acts, and until the coordinator ends. The audit has them all: unanimo audit \
               list.";
    refused(StatusCode::NOT_FOUND, "This act is not known here", why)
}

async fn shown_run(
    State(pages): State<Pages>,
    Named(id): Named<String>,
    request: Request,
) -> Response {
    let looking = pages.looking(&request);
    let shown = async {
        let who = looking.actor(Act::Retry, false).map_err(|bad| problem(&bad))?;
        let run = pages.run(&id, &looking).ok_or_else(no_run)?;
        let mark =
            pages.acts.forms.mark(&who, &format!("/acts/{}/stop", run.form.id), shown::now());
        let shown = Shown { here: "/attention", progress: run.progress(), run, mark };
        Ok(made(StatusCode::OK, &shown))
    };
    either(shown.await)
}

async fn stop(State(pages): State<Pages>, Named(id): Named<String>, request: Request) -> Response {
    either(stop_of(&pages, &id, request).await)
}

async fn stop_of(pages: &Pages, id: &str, request: Request) -> Page {
    let looking = pages.looking(&request);
    pages.sent(&looking, Act::Retry, request).await?;
    let run = pages.run(id, &looking).ok_or_else(no_run)?;
    run.stop();
    run.wait_for_end().await;
    Ok(led_to(&run))
}

/// Leads to the page of a run.
fn led_to(run: &Run) -> Response {
    let to = [(header::LOCATION, format!("/acts/{}", run.form.id))];
    super::response::guarded((StatusCode::SEE_OTHER, to).into_response())
}

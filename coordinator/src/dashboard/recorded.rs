//! Recorded history as pages: the transaction after each input, drawn as it is on the dashboard.

use std::sync::Arc;

use askama::Template;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use unanimo_core::history::{Document, Error, Moment, Replay};

use super::chart::{Chart, Recording};
use super::data::Tx;
use super::read;
use super::response::{assets, guarded, made, problem};
use crate::api::http::Http;

/// Most inputs of the list before the one that is looked at, and after it.
const NEAR: usize = 50;

/// Recorded history that can be looked at, input by input.
#[derive(Debug)]
pub struct Recorded {
    document: Document,
    inputs: Vec<Input>,
    remark: Option<String>,
}

/// Input, as the list shows it.
#[derive(Debug)]
struct Input {
    time: String,
    words: String,
    /// The version that it made, if any.
    written: String,
}

#[derive(Template)]
#[template(path = "moment.html")]
struct MomentPage<'a> {
    gid: &'a str,
    /// Number of the input, from 1.
    number: usize,
    count: usize,
    /// Links to other inputs: name, key and number.
    ways: [(&'static str, char, Option<usize>); 4],
    input: &'a str,
    remark: Option<&'a str>,
    tx: Tx,
    pairs: Vec<(&'static str, String)>,
    chart: Chart,
    is_live: bool,
    graph: Option<String>,
    /// Inputs before and after this one: number, whether it is this one, and what the list shows.
    near: Vec<(usize, bool, &'a Input)>,
}

impl Recorded {
    /// Replays a document once, as far as it goes.
    ///
    /// # Errors
    /// The document breaks a rule, or this version does something else at its first input.
    pub fn new(document: Document) -> Result<Self, Error> {
        let mut replay = Replay::of(&document)?;
        let (mut inputs, mut remark) = (Vec::new(), None);
        for moment in replay.by_ref() {
            match moment {
                Ok(moment) => inputs.push(Input::of(&document, &moment)),
                Err(error) if inputs.is_empty() => return Err(error),
                Err(error) => {
                    remark = Some(format!("After input {}: {error}", inputs.len()));
                    break;
                }
            }
        }
        if remark.is_none() {
            remark = replay.end().err().map(|error| error.to_string());
        }
        Ok(Self { document, inputs, remark })
    }

    /// Returns the number of inputs that can be looked at.
    #[must_use]
    pub fn count(&self) -> usize {
        self.inputs.len()
    }

    /// Returns why not all that happened can be looked at, if it cannot.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        self.remark.as_deref()
    }

    /// Serves the pages until it is told to stop. The error is the listener's.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<()> {
        let router = assets(Router::new().route("/", get(first)).route("/{number}", get(moment)))
            .fallback(nothing)
            .with_state(Arc::new(self))
            .layer(middleware::from_fn(for_this_machine));
        axum::serve(listener, router).with_graceful_shutdown(stop).await
    }

    /// Makes the page of an input; nothing if there is none of this number.
    fn page(&self, number: usize) -> Option<Response> {
        let mut replay = Replay::of(&self.document).ok()?;
        let index = number.checked_sub(1).filter(|index| *index < self.count())?;
        let moment = replay.nth(index)?.ok()?;
        let tx = replay.transaction()?;
        let told = Http::told(tx, moment.at).unwrap_or_default();
        let is_saga = told["mode"] == "MODE_SAGA";
        let graph = if is_saga { Http::drawn(&told) } else { None };
        let tx: Tx = match read("a history", told) {
            Ok(tx) => tx,
            Err(bad) => return Some(problem(&bad)),
        };
        let now = i64::try_from(moment.at.0).ok();
        let now = now.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
        let near = number.saturating_sub(NEAR + 1)..self.count().min(number + NEAR);
        let page = MomentPage {
            gid: self.document.transaction.gid.as_str(),
            number,
            count: self.count(),
            ways: ways(number, self.count()),
            input: &self.inputs[index].words,
            remark: self.remark(),
            pairs: pairs(&self.document, &moment),
            chart: {
                let recording = Recording::to(&self.document, number);
                Chart::of(&tx, Some(&recording), now.unwrap_or_default())
            },
            is_live: false,
            graph,
            tx,
            near: near.map(|index| (index + 1, index + 1 == number, &self.inputs[index])).collect(),
        };
        Some(made(StatusCode::OK, &page))
    }
}

impl Input {
    fn of(document: &Document, moment: &Moment) -> Self {
        Self {
            time: document.time(moment.at),
            words: moment.input.clone(),
            written: if moment.written { moment.version.0.to_string() } else { String::new() },
        }
    }
}

/// Returns the links from an input to others. None leads to itself.
fn ways(number: usize, count: usize) -> [(&'static str, char, Option<usize>); 4] {
    let to = |to: usize| (to != number && (1..=count).contains(&to)).then_some(to);
    [
        ("First", 'f', to(1)),
        ("Previous", 'p', to(number - 1)),
        ("Next", 'n', to(number + 1)),
        ("Last", 'l', to(count)),
    ]
}

/// Returns what an input led to, by name.
fn pairs(document: &Document, moment: &Moment) -> Vec<(&'static str, String)> {
    let Moment { version, step, written, at, calls, locks, after, .. } = moment;
    let time = |at: Option<_>| at.map(|at| document.time(at)).unwrap_or_default();
    let written = match written {
        true => format!("version {}", version.0),
        false => format!("nothing: kept for version {}", version.0),
    };
    let all = [
        ("time", document.time(*at)),
        ("place", format!("input {step} of version {}", version.0)),
        ("written", written),
        ("phase", document.phase_in_words(after)),
        ("calls", document.calls_in_words(calls)),
        ("locks", document.locks_in_words(locks)),
        ("deadline", time(after.deadline)),
        ("next tick", time(after.wake_at)),
        ("recorded by", format!("{} {}", document.program.name, document.program.version)),
    ];
    let is_something = |(name, value): &(&str, String)| match *name {
        "calls" => !moment.calls.is_empty(),
        "locks" => !moment.locks.is_empty(),
        _ => !value.is_empty(),
    };
    all.into_iter().filter(is_something).collect()
}

async fn first() -> Redirect {
    Redirect::to("/1")
}

async fn moment(
    State(recorded): State<Arc<Recorded>>,
    number: Result<Path<usize>, PathRejection>,
) -> Response {
    let page = number.ok().and_then(|Path(number)| recorded.page(number));
    page.unwrap_or_else(|| missing(recorded.count()))
}

async fn nothing(State(recorded): State<Arc<Recorded>>) -> Response {
    missing(recorded.count())
}

fn missing(count: usize) -> Response {
    plain(StatusCode::NOT_FOUND, &format!("The inputs of this history are at /1 to /{count}."))
}

/// Refuses a request by another name than this machine's: a page of another site could have turned that name here.
async fn for_this_machine(request: Request, next: Next) -> Response {
    match Http::check_host(request.headers()) {
        Ok(()) => next.run(request).await,
        Err(why) => plain(StatusCode::MISDIRECTED_REQUEST, why),
    }
}

fn plain(status: StatusCode, text: &str) -> Response {
    let media_type = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    guarded((status, media_type, format!("{text}\n")).into_response())
}

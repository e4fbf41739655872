//! Responses with pages, and with what pages load.

use askama::Template;
use axum::Router;
use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// Sources of everything in a page: this address alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Adds what every page loads.
pub(super) fn assets<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    let asset = |media_type, text| get(move || async move { asset(media_type, text) });
    router
        .route("/assets/style.css", asset("text/css", include_str!("../../assets/style.css")))
        .route("/assets/live.js", asset("text/javascript", include_str!("../../assets/live.js")))
        .route("/assets/icon.svg", asset("image/svg+xml", include_str!("../../assets/icon.svg")))
}

fn asset(media_type: &'static str, text: &'static str) -> Response {
    guarded(([(header::CONTENT_TYPE, media_type)], text).into_response())
}

/// Adds what keeps a page from loading, or being put into, anything else.
pub(super) fn guarded(mut response: Response) -> Response {
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // With `no-referrer` a browser would not tell from which page a form comes.
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Names in the path of a page. What can be none is told as a page, too.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Named<T> {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Response> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(bad) => {
                let (status, detail) = (bad.status().as_u16(), bad.body_text());
                let bad =
                    json!({ "status": status, "title": "This is no address", "detail": detail });
                Err(problem(&bad))
            }
        }
    }
}

#[derive(Template)]
#[template(path = "problem.html")]
struct Problem {
    here: &'static str,
    status: u16,
    title: String,
    detail: String,
    reason: String,
    /// Advice; empty if that is not for a person who looks at pages.
    act: &'static str,
    /// The page of those that need a person has it, too.
    is_listed: bool,
}

#[derive(Template)]
#[template(path = "nothing.html")]
struct Nothing {
    here: &'static str,
    path: String,
}

/// Longest path that is shown as not there.
const PATH_CHARS_MAX: usize = 200;

/// Says that there is no page at this path.
pub(super) async fn nothing(uri: Uri) -> Response {
    let path = uri.path().chars().take(PATH_CHARS_MAX).collect();
    made(StatusCode::NOT_FOUND, &Nothing { here: "", path })
}

pub(super) fn made(status: StatusCode, page: &impl Template) -> Response {
    let html = page.render().unwrap_or_else(|error| {
        tracing::error!(%error, "a page cannot be made");
        String::new()
    });
    let media_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    guarded((status, media_type, html).into_response())
}

/// Reason of an answer about a transaction that cannot be read, and what is to be done about it.
const UNREADABLE: &str = "TRANSACTION_UNREADABLE";
const READ_AGAIN: &str = "Start the version that wrote its rows, or repair them. Then open this page again, which makes \
                          the coordinator read them. All others go on without it.";

/// Reason of an answer to somebody who may not have it, and what is to be done about it.
const DENIED: &str = "DENIED";
const ASK_FOR_A_ROLE: &str = "Roles are given in the coordinator's file of identities: ask whoever keeps it for the one that is \
                              needed, or open this page as an identity that has it.";

pub(super) fn problem(of: &Value) -> Response {
    let text = |name: &str| of[name].as_str().unwrap_or_default().to_owned();
    let status = of["status"].as_u64().and_then(|status| u16::try_from(status).ok()).unwrap_or(500);
    let code = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reason = text("reason");
    let is_listed = reason == UNREADABLE;
    let act = match reason.as_str() {
        UNREADABLE => READ_AGAIN,
        DENIED => ASK_FOR_A_ROLE,
        _ => "",
    };
    let (title, detail) = (text("title"), text("detail"));
    made(code, &Problem { here: "", status, title, detail, reason, act, is_listed })
}

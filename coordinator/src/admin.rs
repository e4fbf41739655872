//! Health and metrics over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::coordinator::Status;

/// Serves until the process ends. The error is the listener's.
pub(crate) async fn serve(listener: TcpListener, status: Arc<Status>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(status);
    axum::serve(listener, router).await
}

/// Answers 200 while the engine works, 503 if only a restart helps.
async fn healthz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    if status.is_alive().await {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the engine does not answer\n")
    }
}

/// Answers 200 if the coordinator accepts new work, otherwise 503 with a line for each obstacle.
async fn readyz(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let obstacles = status.obstacles().await;
    if obstacles.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        let lines = obstacles.iter().map(|obstacle| format!("not ready: {obstacle}\n"));
        (StatusCode::SERVICE_UNAVAILABLE, lines.collect())
    }
}

async fn metrics(State(status): State<Arc<Status>>) -> impl IntoResponse {
    let format = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, format)], status.metrics().await)
}

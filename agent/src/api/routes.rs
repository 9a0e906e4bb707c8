//! The paths of the API. Every error has the same body: `{"code", "msg", "details"?}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Serialize;
use serde_json::{Value, json};

use super::StatusSource;
use crate::cni::{Answer, Direct, Error, Work, code};
use crate::pods::{AttachRequest, Key, PodManager, Record};

#[derive(Clone)]
struct Agent {
    manager: PodManager,
    status: Arc<dyn StatusSource>,
}

pub(super) fn router(manager: PodManager, status: Arc<dyn StatusSource>) -> Router {
    Router::new()
        .route("/v1/attachments", post(attach).get(list))
        .route("/v1/cni", post(cni))
        .route("/v1/attachments/{container_id}/{if_name}", axum::routing::delete(detach))
        .route("/v1/attachments/{container_id}/{if_name}/check", get(check))
        .route("/v1/status", get(status_of))
        .route("/v1/reconcile", post(reconcile))
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/livez", get(async || Json(json!({ "live": true }))))
        .fallback(async |uri: Uri| {
            let error =
                Error::new(code::INVALID_CONFIG, format!("no such path: {}; see docs/api.md", uri.path()));
            (StatusCode::NOT_FOUND, Json(error))
        })
        .method_not_allowed_fallback(async |uri: Uri| {
            let error = Error::new(
                code::INVALID_CONFIG,
                format!("{} has no such method; see docs/api.md", uri.path()),
            );
            (StatusCode::METHOD_NOT_ALLOWED, Json(error))
        })
        .with_state(Agent { manager, status })
}

/// An error as an answer.
struct Refusal(Error);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            code::INVALID_ENVIRONMENT | code::DECODE | code::INVALID_CONFIG => StatusCode::BAD_REQUEST,
            code::UNKNOWN_CONTAINER => StatusCode::NOT_FOUND,
            code::CONFLICT | code::DAMAGED => StatusCode::CONFLICT,
            code::TRY_AGAIN_LATER => StatusCode::SERVICE_UNAVAILABLE,
            code::ADDRESSES_EXHAUSTED => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(self.0)).into_response()
    }
}

// The body is parsed by hand: axum's own refusals are plain text, and want a content type.
async fn attach(State(agent): State<Agent>, body: Bytes) -> Result<(StatusCode, Json<Record>), Refusal> {
    let request: AttachRequest = serde_json::from_slice(&body).map_err(|error| {
        Refusal(Error::new(code::DECODE, "the body is not an attachment request").details(error.to_string()))
    })?;
    agent.manager.attach(request).await.map(|record| (StatusCode::CREATED, Json(record))).map_err(Refusal)
}

/// A runtime's ADD or DEL as the plugin got it. The body of the answer is what the plugin prints, its status what it does:
/// 200 succeed, 422 fail, everything else see for itself.
async fn cni(State(agent): State<Agent>, body: Bytes) -> (StatusCode, String) {
    let answer = match Direct::parse(&body) {
        Err(answer) => answer,
        Ok(direct) => match &direct.work {
            Work::Attach(request) => {
                let attached = agent.manager.attach(request.as_ref().clone()).await;
                direct.answer(attached.as_ref().map(Some).map_err(Clone::clone))
            }
            Work::Detach(key) => direct.answer(agent.manager.detach(key.clone()).await.map(|()| None)),
        },
    };
    match answer {
        Answer::Done(text) => (StatusCode::OK, text),
        Answer::Refused(text) => (StatusCode::UNPROCESSABLE_ENTITY, text),
        Answer::Yourself => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
    }
}

/// A record, and what the cluster says of its pod.
#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    record: Record,
    #[serde(skip_serializing_if = "Option::is_none")]
    labels: Option<BTreeMap<String, String>>,
}

async fn list(State(agent): State<Agent>) -> Json<Vec<Listed>> {
    let listed = |record| Listed { labels: agent.status.labels(&record), record };
    Json(agent.manager.records().into_iter().map(listed).collect())
}

async fn detach(
    State(agent): State<Agent>,
    Path((container_id, if_name)): Path<(String, String)>,
) -> Result<Json<Value>, Refusal> {
    agent.manager.detach(Key { container_id, if_name }).await.map(|()| Json(json!({}))).map_err(Refusal)
}

async fn check(
    State(agent): State<Agent>,
    Path((container_id, if_name)): Path<(String, String)>,
) -> Result<Json<Record>, Refusal> {
    agent.manager.check(&Key { container_id, if_name }).await.map(Json).map_err(Refusal)
}

async fn status_of(State(agent): State<Agent>) -> Json<Value> {
    Json(agent.status.status().await)
}

async fn healthz(State(agent): State<Agent>) -> (StatusCode, Json<Value>) {
    let problems = agent.status.problems().await;
    let status = if problems.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (
        status,
        Json(
            json!({ "healthy": problems.is_empty(), "ready": agent.status.started(), "problems": problems }),
        ),
    )
}

async fn readyz(State(agent): State<Agent>) -> (StatusCode, Json<Value>) {
    if agent.status.started() {
        return (StatusCode::OK, Json(json!({ "ready": true, "problems": [] })));
    }
    let problems = agent.status.problems().await;
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "ready": false, "problems": problems })))
}

async fn reconcile(State(agent): State<Agent>) -> Result<Json<Value>, Refusal> {
    match agent.status.reconcile().await {
        Ok(()) => Ok(Json(agent.status.status().await)),
        Err(error) => Err(Refusal(Error::new(code::TRY_AGAIN_LATER, format!("{error:#}")))),
    }
}

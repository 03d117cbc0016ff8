//! What is answered to which request.

use hyper::Method;
use hyper::Response;
use hyper::StatusCode;
use hyper::header;
use hyper::header::HeaderValue;
use serde_json::Value;
use serde_json::json;

use crate::admin::listener::Desk;
use crate::admin::render;
use crate::admin::report::report;
use crate::node::Observer;

const INDEX: &str = "\
/metrics       everything counted and timed, for Prometheus
/health/live   200 while the process answers
/health/ready  200 when the node can do its part, 503 with the reasons when not
/status        how the node is, as JSON
/log           the log filters in force (changed by: dynamomini log-level)
";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Answers one request.
pub(crate) async fn answer(method: &Method, path: &str, desk: &Desk) -> Response<String> {
    if method != Method::GET && method != Method::HEAD {
        let text = "only GET is answered here; nodes are changed by the dynamomini program\n";
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, text.to_owned());
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match (path, desk.node()) {
        ("/", _) => response(StatusCode::OK, TEXT, INDEX.to_owned()),
        ("/health/live", _) => document(StatusCode::OK, &json!({"live": true})),
        ("/health/ready", node) => ready(node),
        ("/metrics" | "/status" | "/log", None) => {
            response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the node is starting\n".to_owned())
        }
        ("/metrics", Some(node)) => metrics(node).await,
        ("/status", Some(node)) => document(StatusCode::OK, &report(&node.status().await)),
        ("/log", Some(node)) => match node.log_filters() {
            Ok(filters) => response(StatusCode::OK, TEXT, format!("{filters}\n")),
            Err(why) => response(StatusCode::NOT_FOUND, TEXT, format!("{why}\n")),
        },
        _ => response(StatusCode::NOT_FOUND, TEXT, format!("there is no {path:?}; there are\n{INDEX}")),
    }
}

fn ready(node: Option<&Observer>) -> Response<String> {
    let reasons = node.map_or_else(|| vec!["the node is starting".to_owned()], Observer::obstacles);
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    document(status, &json!({"ready": reasons.is_empty(), "reasons": reasons}))
}

async fn metrics(node: &Observer) -> Response<String> {
    match render::text(&node.metrics().await) {
        Ok(text) => response(StatusCode::OK, PROMETHEUS, text),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be written");
            response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n"))
        }
    }
}

fn document(status: StatusCode, value: &Value) -> Response<String> {
    response(status, JSON, format!("{value}\n"))
}

fn response(status: StatusCode, kind: HeaderValue, body: String) -> Response<String> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(method: Method, path: &str) -> (u16, String) {
        let answer = answer(&method, path, &Desk::default()).await;
        (answer.status().as_u16(), answer.into_body())
    }

    #[tokio::test]
    async fn a_node_that_is_being_started_lives_and_is_not_ready() {
        assert_eq!(ask(Method::GET, "/health/live").await, (200, "{\"live\":true}\n".to_owned()));
        let (status, text) = ask(Method::GET, "/health/ready").await;
        assert!(status == 503 && text.contains("starting"), "{status} {text}");
        assert_eq!(ask(Method::GET, "/metrics").await.0, 503);
        assert_eq!(ask(Method::GET, "/status").await.0, 503);
    }

    #[tokio::test]
    async fn whoever_is_lost_is_told_what_there_is_and_nothing_can_be_changed() {
        let (status, text) = ask(Method::GET, "/metricz").await;
        assert!(status == 404 && text.contains("/metrics"), "{status} {text}");
        assert_eq!(ask(Method::GET, "/").await.0, 200);
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            assert_eq!(ask(method, "/log").await.0, 405);
        }
    }
}

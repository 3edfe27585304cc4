//! The time limit of requests, and the answer when an endpoint panics.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::{sleep_until, timeout};

use super::security_headers::protect;
use crate::{gateway::App, http::error::ApiError};

/// Time limit from a request to the start of its answer: longer than any requested wait.
const REQUEST_LIMIT: Duration = Duration::from_secs(40);

/// Time after `stop` within which every request is answered: less than the server's limit for
/// connections.
const LAST_ANSWER: Duration = Duration::from_secs(9);

/// Ends a request that waits too long, for example for a silent server, or past shutdown, or whose
/// endpoint panics.
pub(crate) async fn limit_request(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    // Shared state is behind locks that remain valid after a panic.
    let answering = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = tokio::select! {
        biased;
        answered = timeout(REQUEST_LIMIT, answering) => match answered {
            Ok(answered) => answered.unwrap_or_else(|_| broken()),
            Err(_) => ApiError::unavailable("A server does not answer; try again").into_response(),
        },
        () = async { sleep_until(app.stops().await + LAST_ANSWER).await } => {
            ApiError::unavailable("The gateway is stopping; try again").into_response()
        }
    };
    protect(response.headers_mut());
    response
}

/// The answer to a request whose endpoint panicked. The panic is logged.
fn broken() -> Response {
    let message = "This request met an error of the gateway, which has logged it";
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::{Body, to_bytes},
        middleware,
        routing::get,
    };
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;
    use shared::settings::Settings;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{config::Config, loaded_mapping::LoadedMapping};

    /// With unreachable servers.
    fn app() -> Arc<App> {
        let settings = [
            ("SDB_DATABASE_URI", "postgresql://x:y@127.0.0.1:1/z"),
            ("SDB_AMQP_URI", "amqp://127.0.0.1:1"),
            ("SDB_SECRET_KEY", "a-secret"),
        ];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let config = Config::from_settings(&Settings::new(settings)).unwrap();
        Arc::new(App::new(config, LoadedMapping::default(), CancellationToken::new()))
    }

    async fn breaks() -> Response {
        panic!("provoked by a test")
    }

    #[tokio::test]
    async fn a_panic_ends_its_request_alone() {
        let router = Router::new()
            .route("/breaks", get(breaks))
            .route("/works", get(async || "well"))
            .layer(middleware::from_fn_with_state(app(), limit_request));
        let service = TowerToHyperService::new(router);
        let asked = async |path: &str| {
            let request = Request::builder().uri(path).body(Body::empty()).unwrap();
            let response = service.call(request).await.unwrap();
            let status = response.status().as_u16();
            (status, to_bytes(response.into_body(), 1024).await.unwrap())
        };
        let (status, body) = asked("/breaks").await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(status == 500 && body["code"] == 500 && body["message"].is_string(), "{body}");
        assert!(!body.to_string().contains("provoked"), "{body}");
        assert_eq!(asked("/works").await, (200, "well".into()));
    }
}

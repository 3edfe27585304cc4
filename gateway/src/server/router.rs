//! All routes, and the order of the middleware.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::Redirect,
    routing::{get, post},
};
use shared::telemetry::traces;

use crate::{
    api::{
        alertmanager::{post_alerts, post_webhook},
        feeds::{get_atom, get_badge, get_calendar, get_rss},
        health, metrics,
        statuspage::get_document,
        v1::{
            get_component_status, get_incidents, get_live, get_update, post_component_status,
            post_updates,
        },
        v2::{get_availability, get_components, get_event, get_events, post_events},
    },
    gateway::App,
    http::error::ApiError,
    middleware::{
        api_v2::api_v2, metrics::measure_request, readable::readable, timeout::limit_request,
        tracing::trace_request,
    },
    openapi::page,
    pages,
};

/// Where health and metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdminPlacement {
    /// At the address for clients.
    Shared,
    /// At the admin address. Health is also served at the address for clients, because load balancers check it
    /// there; metrics are not.
    Separate,
}

/// The routes of the admin address.
pub(crate) fn admin_router(app: Arc<App>) -> Router {
    health_router().route("/metrics", get(metrics::get)).with_state(app)
}

fn health_router() -> Router<Arc<App>> {
    Router::new().route("/healthz", get(health::healthz)).route("/readyz", get(health::readyz))
}

/// The routes for clients.
pub(crate) fn router(app: Arc<App>, admin: AdminPlacement) -> Router {
    let router = match admin {
        AdminPlacement::Shared => health_router().route("/metrics", get(metrics::get)),
        AdminPlacement::Separate => health_router(),
    };
    let router = router
        .merge(public().layer(middleware::from_fn(readable)))
        .route("/api/v1/updates", post(post_updates::post))
        .route("/api/v1/updates/{id}", get(get_update::get))
        .route("/alertmanager/api/v2/alerts", post(post_alerts::post))
        .route("/alertmanager/webhook", post(post_webhook::post))
        .route("/v2/components", get(get_components::get))
        .route("/v2/events", get(get_events::get).post(post_events::post))
        .route("/v2/events/{id}", get(get_event::get))
        .route("/v2/availability", get(get_availability::get))
        .merge(page::router())
        .merge(if app.pages.are_served {
            pages::router()
        } else {
            Router::new().route("/", get(async || Redirect::temporary("/api-docs")))
        })
        .method_not_allowed_fallback(async || {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "This path does not take that method")
        })
        .fallback(pages::nothing)
        .layer(middleware::from_fn_with_state(app.clone(), limit_request))
        .layer(middleware::from_fn(api_v2))
        .layer(middleware::from_fn(measure_request));
    let router = match traces::get() {
        Some(traces) => {
            let trace = move |State(app): State<Arc<App>>, request: Request, next: Next| async move {
                trace_request(traces, &app.auth, request, next).await
            };
            router.layer(middleware::from_fn_with_state(app.clone(), trace))
        }
        None => router,
    };
    router.with_state(app)
}

/// What everybody may read, also scripts of other sites. Those of API v2 have headers of their own.
fn public() -> Router<Arc<App>> {
    Router::new()
        .route(
            "/api/v1/component_status",
            get(get_component_status::get).post(post_component_status::post),
        )
        .route("/api/v1/incidents", get(get_incidents::get))
        .route("/api/v1/live", get(get_live::get))
        .route("/api/v2/{document}", get(get_document::get))
        .route("/api/v2/{kind}/{document}", get(get_document::get_part))
        .route("/rss/", get(get_rss::get))
        .route("/feed.atom", get(get_atom::get))
        .route("/maintenance.ics", get(get_calendar::get))
        .route("/badge.svg", get(get_badge::get))
        .route("/badge/components/{file}", get(get_badge::get_of_component))
}

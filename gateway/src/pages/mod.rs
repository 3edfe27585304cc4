//! Pages for people: what works, what does not, since when. Rendered here, they need no script.

mod assets;
mod component;
mod error;
mod frame;
mod history;
mod incident;
mod overview;
mod table;

use std::sync::Arc;

use axum::{Router, routing::get};

use crate::gateway::App;

pub(crate) use self::error::nothing;

/// The paths.
pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(overview::get))
        .route("/incidents/{id}", get(incident::get))
        .route("/components/{id}", get(component::get))
        .route("/history", get(history::get))
        .route("/history/{month}", get(history::get_month))
        .merge(assets::router())
}

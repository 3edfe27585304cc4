//! `GET /api/v1/live`: an event whenever the lists have changed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use crate::{gateway::App, http::error::ApiError, lists::change_notices::LiveReader};

/// Time between two comments, which show that the connection is alive.
const COMMENT_EVERY: Duration = Duration::from_secs(15);
/// Time after which an answer ends; the client then asks again. It is less than the server's limit for an answer.
const LIMIT: Duration = Duration::from_secs(100);
/// Time after which a client asks again.
const RETRY: Duration = Duration::from_secs(2);
/// Tells nginx to pass events on at once.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// Wait for changes of the lists
///
/// Server-sent events. The first event `version` comes at once, the next ones when incidents, maintenances or
/// components have changed, or when an incident has started or ended. Its id and its data are the version of the
/// lists, in the form that the pages have it. A comment comes every 15 seconds. The answer ends after 100 seconds, and
/// when the gateway stops; browsers then ask again by themselves.
#[utoipa::path(
    get,
    path = "/api/v1/live",
    operation_id = "live",
    responses(
        (status = 200, description = "The events", body = String, content_type = "text/event-stream",
            headers(("X-Accel-Buffering"))),
        (status = 503, description = "Too many clients are waiting"),
    ),
)]
pub(crate) async fn get(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let full = || ApiError::unavailable("Too many clients are waiting for changes; ask for lists");
    let reader = app.live.join().ok_or_else(full)?;
    let end = Instant::now() + LIMIT;
    let events = stream::unfold((reader, app), move |(mut reader, app)| async move {
        let event = next(&mut reader, &app, end).await?;
        Some((Ok::<_, Infallible>(event), (reader, app)))
    });
    let alive = KeepAlive::new().interval(COMMENT_EVERY);
    let mut response = Sse::new(events).keep_alive(alive).into_response();
    response.headers_mut().insert(UNBUFFERED, HeaderValue::from_static("no"));
    Ok(response)
}

async fn next(reader: &mut LiveReader, app: &App, end: Instant) -> Option<Event> {
    let version = tokio::select! {
        version = reader.next() => version?,
        _ = app.stops() => return None,
        () = sleep_until(end) => return None,
    };
    Some(Event::default().event("version").id(&version).data(&version).retry(RETRY))
}

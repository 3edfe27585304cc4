//! Serves a list: conditional, compressed, from memory while nothing changed, and streamed when it is
//! too large to hold.

mod cache;
mod version;
mod writer;

use std::{future::Future, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use shared::{
    metrics::{GATEWAY, ListSource},
    seldom,
    telemetry::chain,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::timeout,
};

pub(crate) use self::{
    cache::Cache,
    version::{Version, Versions},
    writer::{ListError, ListWriter, give_back},
};
use self::{cache::Written, writer::Chunk};
use crate::{app::App, error::ApiError};

/// Bytes of an answer that are held before it is streamed instead.
const HELD_BYTES: usize = 4 * 1024 * 1024;
/// Lists up to this size need no room: readers who take little at a time must not keep them from others.
const SMALL_BYTES: usize = 16 * 1024;
/// Time that a list waits for room in memory.
const ROOM_LIMIT: Duration = Duration::from_secs(2);

/// How the body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    /// gzip wherever the client accepts it.
    fn negotiate(headers: &HeaderMap) -> Self {
        let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
        let mut accepts = None;
        for coding in values.filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')) {
            let mut parts = coding.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
            let accepted = weight.is_none_or(|weight| weight > 0.0);
            match name.as_str() {
                "gzip" | "x-gzip" => return if accepted { Self::Gzip } else { Self::Identity },
                "*" => accepts = Some(accepted),
                _ => {}
            }
        }
        if accepts == Some(true) { Self::Gzip } else { Self::Identity }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        }
    }
}

/// Which list is asked for.
pub(crate) struct Asked<'a> {
    /// The request's headers.
    pub(crate) headers: &'a HeaderMap,
    /// Everything that the content depends on, beside the state of the lists.
    pub(crate) list: String,
    /// Whether it shows what stands now only.
    pub(crate) active: bool,
}

/// Answers with a list that `produce` writes, or that it has written for another request and that
/// nothing has changed since; or with 304 when the client has this one already.
///
/// # Errors
/// 503 when the database fails before the answer begins, or too many lists are being streamed.
pub(crate) async fn serve<P>(
    app: &Arc<App>,
    asked: Asked<'_>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let Asked { headers, list, active } = asked;
    let coding = Coding::negotiate(headers);
    let version = now(app, active).await?;
    let tag = etag(version, coding);
    if names(headers, &tag) {
        GATEWAY.lists.of(ListSource::Client).inc();
        return Ok(with_headers(StatusCode::NOT_MODIFIED.into_response(), &tag, coding));
    }
    let response = current(app, list, active, coding, version, produce).await?;
    if names(headers, "*") {
        // Only now is it known that there is anything to have.
        return Ok(with_headers(StatusCode::NOT_MODIFIED.into_response(), &tag, coding));
    }
    Ok(response)
}

/// The list as it is in memory, or as `produce` writes it.
async fn current<P>(
    app: &Arc<App>,
    list: String,
    active: bool,
    coding: Coding,
    version: Version,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let slot = app.written_lists.slot(list, coding);
    let mut written = slot.lock().await;
    match written.as_ref().filter(|written| written.version().reaches(version)) {
        Some(Written::Held { version, body, next }) => {
            GATEWAY.lists.of(ListSource::Memory).inc();
            return Ok(held(*version, body.clone(), next.clone(), coding));
        }
        Some(Written::TooLarge(_)) => {
            drop(written);
            // Before anything is read for one who is refused.
            let permit = streaming(app)?;
            let rendering = render(produce, coding).await?;
            return respond(app, version, rendering, coding, permit).await;
        }
        None => {}
    }
    // Read again, so that all who wait by now find what is written: their versions are no later.
    // It is read before the rows: if they change between, the list is newer than its tag, and the
    // next comparison finds another tag.
    let version = now(app, active).await?;
    match render(produce, coding).await? {
        Rendering::Whole { body, next } => {
            let body = hold(app, body).await?;
            GATEWAY.lists.of(ListSource::Rendered).inc();
            app.written_lists.make_room(body.len());
            let response = held(version, body.clone(), next.clone(), coding);
            *written = Some(Written::Held { version, body, next });
            Ok(response)
        }
        part @ Rendering::Part { .. } => {
            *written = Some(Written::TooLarge(version));
            drop(written);
            let permit = streaming(app)?;
            respond(app, version, part, coding, permit).await
        }
    }
}

async fn now(app: &App, active: bool) -> Result<Version, ApiError> {
    let version = app.versions.now().await?;
    Ok(if active { version } else { version.without_windows() })
}

/// A list that was begun.
enum Rendering {
    Whole {
        body: Bytes,
        next: Option<HeaderValue>,
    },
    /// It is too large to be held.
    Part {
        begin: Bytes,
        rest: mpsc::Receiver<Result<Chunk, ListError>>,
        next: Option<HeaderValue>,
    },
}

/// Lets the list be written, to its end or until it is too large to be held.
async fn render<P>(
    produce: impl FnOnce(ListWriter) -> P,
    coding: Coding,
) -> Result<Rendering, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let (sender, mut chunks) = mpsc::channel(1);
    let errors = sender.clone();
    let produced = produce(ListWriter::new(coding, sender));
    tokio::spawn(async move {
        let ended = tokio::select! {
            produced = produced => match produced {
                Ok(writer) => writer.finish().await,
                Err(error) => Err(error),
            },
            // It may wait for rows that never come.
            () = errors.closed() => Err(ListError::Reader),
        };
        if let Err(error) = ended {
            match error {
                ListError::Reader | ListError::Gone => {
                    tracing::debug!(reason = chain(&error), "a list ended early");
                }
                ListError::Database(_)
                | ListError::Json(_)
                | ListError::Compression(_)
                | ListError::Unfinished => {
                    let reason = chain(&error);
                    seldom!(warn, &reason, reason, "a list ended early");
                }
            }
            // A reader that is gone needs no error.
            errors.send(Err(error)).await.unwrap_or_default();
        }
    });

    let (mut body, mut next) = (BytesMut::new(), None);
    while body.len() < HELD_BYTES {
        match chunks.recv().await {
            Some(Ok(Chunk::Next(link))) => next = Some(link),
            Some(Ok(Chunk::Bytes(chunk))) => body.extend_from_slice(&chunk),
            Some(Ok(Chunk::End)) => return Ok(Rendering::Whole { body: body.freeze(), next }),
            Some(Err(ListError::Gone)) => {
                return Err(ApiError::new(StatusCode::NOT_FOUND, "Component does not exist"));
            }
            Some(Err(_)) | None => {
                return Err(ApiError::unavailable("The database can't be read now; try again"));
            }
        }
    }
    Ok(Rendering::Part { begin: body.freeze(), rest: chunks, next })
}

/// A place among the few that have a list streamed.
fn streaming(app: &App) -> Result<OwnedSemaphorePermit, ApiError> {
    app.streamed_lists.clone().try_acquire_owned().map_err(|_| {
        ApiError::unavailable("Too many large lists are being read; try again, or use `limit`")
    })
}

/// Answers with a list that is not kept for others.
async fn respond(
    app: &App,
    version: Version,
    rendering: Rendering,
    coding: Coding,
    permit: OwnedSemaphorePermit,
) -> Result<Response, ApiError> {
    let (begin, rest, next) = match rendering {
        Rendering::Whole { body, next } => {
            let body = hold(app, body).await?;
            GATEWAY.lists.of(ListSource::Rendered).inc();
            return Ok(held(version, body, next, coding));
        }
        Rendering::Part { begin, rest, next } => (begin, rest, next),
    };
    GATEWAY.lists.of(ListSource::Streamed).inc();
    let rest = stream::unfold(Some((rest, permit)), |reading| async move {
        let (mut chunks, permit) = reading?;
        match chunks.recv().await {
            Some(Ok(Chunk::Bytes(chunk))) => Some((Ok(chunk), Some((chunks, permit)))),
            Some(Ok(Chunk::End)) => None,
            Some(Ok(Chunk::Next(_))) | None => Some((Err(ListError::Unfinished), None)),
            Some(Err(error)) => Some((Err(error), None)),
        }
    });
    let body = Body::from_stream(stream::once(async { Ok(begin) }).chain(rest));
    let response = with_next(Response::new(body), next);
    Ok(with_headers(response, &etag(version, coding), coding))
}

/// The bytes of a list and its share of the memory for lists, given back when its last reader has
/// it and nobody keeps it any more.
struct Room {
    bytes: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Holds a list in memory, once there is room for it.
async fn hold(app: &App, bytes: Bytes) -> Result<Bytes, ApiError> {
    if bytes.len() <= SMALL_BYTES {
        return Ok(bytes);
    }
    let crowded = || ApiError::unavailable("Too many lists are being read; try again");
    let kib = u32::try_from(bytes.len() / 1024 + 1).map_err(|_| crowded())?;
    let room = app.held_lists.clone();
    let _permit = match room.clone().try_acquire_many_owned(kib) {
        Ok(permit) => permit,
        Err(_) => {
            app.written_lists.clear();
            let room = timeout(ROOM_LIMIT, room.acquire_many_owned(kib)).await;
            room.ok().and_then(Result::ok).ok_or_else(crowded)?
        }
    };
    Ok(Bytes::from_owner(Room { bytes, _permit }))
}

fn held(version: Version, body: Bytes, next: Option<HeaderValue>, coding: Coding) -> Response {
    let response = with_next(Response::new(Body::from(body)), next);
    with_headers(response, &etag(version, coding), coding)
}

fn with_next(mut response: Response, next: Option<HeaderValue>) -> Response {
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, next);
    }
    response
}

/// One for each content coding.
fn etag(version: Version, coding: Coding) -> String {
    format!("\"{}-{}\"", version.text(), coding.name())
}

fn with_headers(mut response: Response, etag: &str, coding: Coding) -> Response {
    let headers = response.headers_mut();
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if response.status() != StatusCode::NOT_MODIFIED {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if coding == Coding::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    response
}

/// Whether `If-None-Match` has this tag, or this `*` (RFC 9110, 13.1.2: compared weakly).
fn names(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        for (value, expected) in [
            ("gzip", Coding::Gzip),
            ("br, gzip;q=0.5", Coding::Gzip),
            ("*", Coding::Gzip),
            ("gzip;q=0, *", Coding::Identity),
            ("gzip; q=0", Coding::Identity),
            ("br", Coding::Identity),
            ("", Coding::Identity),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(Coding::negotiate(&headers), expected, "{value:?}");
        }
        assert_eq!(Coding::negotiate(&HeaderMap::new()), Coding::Identity);
    }

    #[test]
    fn tags_are_compared_weakly() {
        for (value, expected) in [
            ("\"5-gzip\"", true),
            ("W/\"5-gzip\"", true),
            ("\"4-gzip\", \"5-gzip\"", true),
            ("*", false),
            ("\"5-identity\"", false),
            ("5-gzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(names(&headers, "\"5-gzip\""), expected, "{value}");
        }
    }
}

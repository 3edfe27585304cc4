//! Serves a list: conditional, compressed, and streamed when it is too large to hold.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use flate2::{Compression, write::GzEncoder};
use futures_util::stream;
use http_body_util::{BodyExt, Full};
use shared::{telemetry::chain, timestamp::Timestamp};
use sqlx::PgPool;
use std::io::Write;
use tokio::{sync::mpsc, time::timeout};

use crate::{app::App, error::ApiError};

/// Bytes of an answer that are held before it is streamed instead.
const HELD_BYTES: usize = 4 * 1024 * 1024;
/// Bytes that are written at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Time that a reader may take for a chunk of a streamed list.
const READER_LIMIT: Duration = Duration::from_secs(30);
/// Time that a list waits for room in memory.
const ROOM_LIMIT: Duration = Duration::from_secs(2);

/// How the body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

/// What tells one state of the lists from another.
///
/// It is read before the rows: if they change between, the answer is newer than its tag, and the
/// next comparison finds another tag.
pub(crate) async fn tag(database: &PgPool, active: bool) -> Result<String, sqlx::Error> {
    if !active {
        let version: i64 =
            sqlx::query_scalar("SELECT lists FROM sdb_version").fetch_one(database).await?;
        return Ok(version.to_string());
    }
    // What stands now changes without a write, too, when a start or an end passes.
    let (version, start, end): (i64, Option<Timestamp>, Option<Timestamp>) = sqlx::query_as(
        "SELECT lists,
            (SELECT max(start_date) FROM incident WHERE start_date <= now),
            (SELECT max(end_date) FROM incident WHERE end_date <= now)
        FROM sdb_version, (SELECT clock_timestamp() AT TIME ZONE 'UTC' AS now) AS clock",
    )
    .fetch_one(database)
    .await?;
    let micros = |instant: Option<Timestamp>| instant.map_or(0, Timestamp::as_micros);
    Ok(format!("{version}-{:x}-{:x}", micros(start), micros(end)))
}

/// Takes the bytes of a list, in pieces.
pub(crate) struct ListWriter {
    plain: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    chunks: mpsc::Sender<Result<Chunk, ListError>>,
}

/// A piece of a list. A list without its end was cut off, whatever cut it.
enum Chunk {
    Bytes(Bytes),
    End,
}

/// Why a list ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("a row can't be written")]
    Json(#[from] serde_json::Error),
    #[error("the list can't be compressed")]
    Compression(#[from] io::Error),
    #[error("the reader is gone or too slow")]
    Reader,
    #[error("what was asked for is gone")]
    Gone,
    #[error("the writer of the list failed")]
    Unfinished,
}

impl ListWriter {
    /// Where to write JSON. [`ListWriter::advance`] passes it on.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Passes on what was written, once it is enough; waits while the reader is behind.
    pub(crate) async fn advance(&mut self) -> Result<(), ListError> {
        if self.plain.len() < CHUNK_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), ListError> {
        let ready = match &mut self.gzip {
            None => std::mem::take(&mut self.plain),
            Some(gzip) => {
                gzip.write_all(&self.plain)?;
                self.plain.clear();
                std::mem::take(gzip.get_mut())
            }
        };
        self.send(ready).await
    }

    async fn finish(mut self) -> Result<(), ListError> {
        self.flush().await?;
        if let Some(gzip) = self.gzip.take() {
            let rest = gzip.finish()?;
            self.send(rest).await?;
        }
        self.pass(Chunk::End).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), ListError> {
        if bytes.is_empty() { Ok(()) } else { self.pass(Chunk::Bytes(bytes.into())).await }
    }

    async fn pass(&mut self, chunk: Chunk) -> Result<(), ListError> {
        match timeout(READER_LIMIT, self.chunks.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ListError::Reader),
        }
    }
}

/// Answers with a list that `produce` writes, or with 304 when the client has this one already.
///
/// # Errors
/// 503 when the database fails before the answer begins, or too many lists are being streamed.
pub(crate) async fn serve<P>(
    app: &Arc<App>,
    headers: &HeaderMap,
    tag: &str,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let coding = Coding::negotiate(headers);
    let etag = format!("\"{tag}-{}\"", coding.name());
    if matches(headers, &etag) {
        return Ok(with_headers(StatusCode::NOT_MODIFIED.into_response(), &etag, coding));
    }

    let (sender, mut chunks) = mpsc::channel(1);
    let errors = sender.clone();
    let gzip = (coding == Coding::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
    let writer = ListWriter { plain: Vec::new(), gzip, chunks: sender };
    let produced = produce(writer);
    tokio::spawn(async move {
        let ended = match produced.await {
            Ok(writer) => writer.finish().await,
            Err(error) => Err(error),
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
                    tracing::warn!(reason = chain(&error), "a list ended early");
                }
            }
            // A reader that is gone needs no error.
            errors.send(Err(error)).await.unwrap_or_default();
        }
    });

    let mut held = BytesMut::new();
    while held.len() < HELD_BYTES {
        match chunks.recv().await {
            Some(Ok(Chunk::Bytes(chunk))) => held.extend_from_slice(&chunk),
            Some(Ok(Chunk::End)) => {
                return Ok(with_headers(hold(app, held.freeze()).await?, &etag, coding));
            }
            Some(Err(ListError::Gone)) => {
                return Err(ApiError::new(StatusCode::NOT_FOUND, "Component does not exist"));
            }
            Some(Err(_)) | None => {
                return Err(ApiError::unavailable("The database can't be read now; try again"));
            }
        }
    }

    let permit = app.streamed_lists.clone().try_acquire_owned().map_err(|_| {
        ApiError::unavailable("Too many large lists are being read; try again, or use `limit`")
    })?;
    let rest = stream::unfold(Some((chunks, permit)), |reading| async move {
        let (mut chunks, permit) = reading?;
        match chunks.recv().await {
            Some(Ok(Chunk::Bytes(chunk))) => Some((Ok(chunk), Some((chunks, permit)))),
            Some(Ok(Chunk::End)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(ListError::Unfinished), None)),
        }
    });
    let first = stream::once(async { Ok(held.freeze()) });
    let body = Body::from_stream(futures_util::StreamExt::chain(first, rest));
    Ok(with_headers(Response::new(body), &etag, coding))
}

/// An answer that is held in memory until its reader has it, once there is room for it.
async fn hold(app: &App, bytes: Bytes) -> Result<Response, ApiError> {
    let crowded = || ApiError::unavailable("Too many lists are being read; try again");
    let kib = u32::try_from(bytes.len() / 1024 + 1).map_err(|_| crowded())?;
    let room = timeout(ROOM_LIMIT, app.held_lists.clone().acquire_many_owned(kib));
    let permit = room.await.ok().and_then(Result::ok).ok_or_else(crowded)?;
    let length = HeaderValue::from(bytes.len());
    let mut response = Response::new(Body::new(Full::new(bytes).map_frame(move |frame| {
        // Goes when the body does.
        let _held = &permit;
        frame
    })));
    response.headers_mut().insert(header::CONTENT_LENGTH, length);
    Ok(response)
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

/// Whether `If-None-Match` names this tag (RFC 9110, 13.1.2: compared weakly).
fn matches(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
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
            ("*", true),
            ("\"5-identity\"", false),
            ("5-gzip", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(matches(&headers, "\"5-gzip\""), expected, "{value}");
        }
    }
}

//! Serves a list: conditional, compressed, from memory while nothing changed, and streamed when it is
//! too large to hold.

mod budget;
mod cache;
mod render;
mod streamed;
mod writer;

use std::{convert::Infallible, future::Future, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use shared::metrics::{GATEWAY, ListSource};
use sqlx::PgPool;
use tokio::sync::Semaphore;

pub(crate) use self::writer::{ListError, ListWriter, give_back, lend};
use self::{
    budget::Budget,
    cache::{Cache, Found, List, Slot, Turn, Written},
    render::{Rendering, render},
};
use crate::{
    http::{
        conditions::{Coding, Known, coding},
        error::ApiError,
        transfer::Transfer,
    },
    store::version::{Version, Versions},
};

/// Bytes of lists that are being written, held for readers, slow ones among them, or read ahead for them.
const LIST_BYTES: usize = 256 * 1024 * 1024;

/// Headers that an answer has, at most: a list's own, those of every answer and its length.
const MOST_HEADERS: usize = 12;

/// What lists are served from.
pub(crate) struct Lists {
    /// For their statements, so that they can hold up nothing else.
    pub(crate) database: PgPool,
    /// Tells whether those in memory are what the database has.
    versions: Versions,
    /// Those that were written lately.
    written: Cache,
    /// The memory for all of them.
    memory: Budget,
    /// One permit for each that is too large to hold.
    streamed: Arc<Semaphore>,
}

impl Lists {
    /// `streamed` are the lists that may be streamed at once.
    pub(crate) fn new(database: PgPool, versions: Versions, streamed: usize) -> Self {
        Self {
            database,
            versions,
            written: Cache::default(),
            memory: Budget::new(LIST_BYTES, streamed),
            streamed: Arc::new(Semaphore::new(streamed)),
        }
    }
}

/// What of an answer only the content tells, beside the content itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// All that match: nothing, there is always such a list.
    All,
    /// A page: where the next one is.
    Page,
    /// One object: whether there is such a one.
    One,
}

/// Which list is asked for.
pub(crate) struct Asked<'a> {
    /// The request's method.
    pub(crate) method: &'a Method,
    /// The request's headers.
    pub(crate) headers: &'a HeaderMap,
    /// The answers of the request's connection.
    pub(crate) transfer: &'a Arc<Transfer>,
    /// Everything that the content depends on, beside the state of the lists.
    pub(crate) list: String,
    /// What kind of list it is.
    pub(crate) kind: ListKind,
    /// Whether it shows what stands now only.
    pub(crate) active: bool,
}

/// Answers with a list that `produce` writes, or that it has written for another request and that
/// nothing has changed since; or with 304 when the client has this one already.
///
/// # Errors
/// 503 when the database fails before the answer begins, or too many lists are being streamed.
pub(crate) async fn serve<P>(
    lists: &Lists,
    asked: Asked<'_>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let Asked { method, headers, kind, .. } = asked;
    let coding = coding(headers);
    let version = now(lists, asked.active).await?;
    let unchanged = || {
        GATEWAY.lists.of(ListSource::Client).inc();
        let mut response = Response::new(unmeasured());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        with_headers(response, etag(version, coding), coding)
    };
    let known = Known::read(headers);
    let has_any = known == Known::Any;
    // Most clients name no tag, and need none made.
    let is_known = known.names_tags() && known.has(&tag(version, coding));
    if is_known || (has_any && kind != ListKind::One) {
        return Ok(unchanged());
    }
    let is_head = method == Method::HEAD;
    if is_head && kind == ListKind::All {
        return Ok(
            kept(lists, &asked.list, coding, version).unwrap_or_else(|| bare(version, coding))
        );
    }
    let reader = (!is_head && !has_any).then_some(asked.transfer);
    let wanted = Request { list: asked.list, active: asked.active, coding, version, reader };
    let response = current(lists, wanted, produce).await?;
    // Only now is it known that there is anything to have.
    Ok(if has_any { unchanged() } else { response })
}

/// A list that is to be found in memory or written.
struct Request<'a> {
    list: String,
    active: bool,
    coding: Coding,
    /// It must not be older.
    version: Version,
    /// Who takes the content; none when nobody does.
    reader: Option<&'a Arc<Transfer>>,
}

/// The list as it is in memory, or as `produce` writes it. What is seldom done is boxed: its state would
/// have every request take a kilobyte more from the allocator.
async fn current<P>(
    lists: &Lists,
    wanted: Request<'_>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let Request { list, active, coding, version, reader } = wanted;
    let slot = lists.written.slot(list, coding);
    let written = match slot.find(version).await? {
        Found::Written(written) => written,
        Found::Turn(turn) => {
            let writing = write(lists, (&slot, turn), active, coding, reader, produce);
            return Box::pin(writing).await;
        }
    };
    if let Written::Held(list) = &*written {
        GATEWAY.lists.of(ListSource::Memory).inc();
        return Ok(held(list.clone(), coding));
    }
    let Some(reader) = reader else { return Ok(bare(version, coding)) };
    Box::pin(stream_large(lists, version, coding, reader, produce)).await
}

/// Writes a list for all who wait for it.
async fn write<P>(
    lists: &Lists,
    (slot, turn): (&Arc<Slot>, Turn<'_>),
    active: bool,
    coding: Coding,
    reader: Option<&Arc<Transfer>>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    // Read again, so that all who wait by now find what is written: their versions are no later.
    // It is read before the rows: if they change between, the list is newer than its tag, and the
    // next comparison finds another tag.
    let rendered = async {
        let version = now(lists, active).await?;
        Ok((version, render(lists, produce, coding).await?))
    };
    let (version, rendering) = rendered.await.inspect_err(|error| turn.failed(error))?;
    match rendering {
        Rendering::Whole { body, next } => {
            GATEWAY.lists.of(ListSource::Rendered).inc();
            lists.written.weigh(slot, body.len());
            let list = List::new(version, coding, body, next);
            turn.written(Written::Held(list.clone()));
            Ok(held(list, coding))
        }
        Rendering::Partial(part) => {
            turn.written(Written::TooLarge(version));
            lists.written.weigh(slot, 0);
            drop(turn);
            // What was begun is given up with the part.
            let Some(reader) = reader else { return Ok(bare(version, coding)) };
            let place = streamed::place(lists)?;
            respond(lists, version, part, coding, place, reader).await
        }
    }
}

/// Streams a list that was too large to hold at this version.
async fn stream_large<P>(
    lists: &Lists,
    version: Version,
    coding: Coding,
    reader: &Arc<Transfer>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    // Before anything is read for one who is refused.
    let place = streamed::place(lists)?;
    match render(lists, produce, coding).await? {
        Rendering::Whole { body, next } => {
            GATEWAY.lists.of(ListSource::Rendered).inc();
            Ok(held(List::new(version, coding, body, next), coding))
        }
        Rendering::Partial(part) => respond(lists, version, part, coding, place, reader).await,
    }
}

async fn now(lists: &Lists, active: bool) -> Result<Version, ApiError> {
    let version = lists.versions.now().await?;
    Ok(if active { version } else { version.without_windows() })
}

/// Answers with a list that is not kept for others.
async fn respond(
    lists: &Lists,
    version: Version,
    part: render::Partial,
    coding: Coding,
    place: tokio::sync::OwnedSemaphorePermit,
    reader: &Arc<Transfer>,
) -> Result<Response, ApiError> {
    let response = streamed::respond(lists, part, place, reader).await?;
    GATEWAY.lists.of(ListSource::Streamed).inc();
    Ok(with_headers(response, etag(version, coding), coding))
}

/// A list that is in memory, if it is not older than this version.
fn kept(lists: &Lists, list: &str, coding: Coding, version: Version) -> Option<Response> {
    // While it is being written it is not there.
    match &*lists.written.find(list, coding)?.now(version)? {
        Written::Held(list) => {
            GATEWAY.lists.of(ListSource::Memory).inc();
            Some(held(list.clone(), coding))
        }
        Written::TooLarge(_) => None,
    }
}

/// The headers of a list, for who takes no content. Its length is not known.
fn bare(version: Version, coding: Coding) -> Response {
    GATEWAY.lists.of(ListSource::Memory).inc();
    with_headers(Response::new(unmeasured()), etag(version, coding), coding)
}

/// An empty body in the place of one whose length is not known: `Content-Length: 0` would be a lie.
fn unmeasured() -> Body {
    Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())
}

fn held(list: List, coding: Coding) -> Response {
    let List { tag, next, body, .. } = list;
    with_headers(with_next(Response::new(Body::from(body)), next), tag, coding)
}

fn with_next(mut response: Response, next: Option<HeaderValue>) -> Response {
    if let Some(next) = next {
        response.headers_mut().insert(header::LINK, next);
    }
    response
}

impl List {
    fn new(version: Version, coding: Coding, body: Bytes, next: Option<HeaderValue>) -> Self {
        Self { version, tag: etag(version, coding), next, body }
    }
}

/// One for each content coding. It is weak: the bytes of one state may differ, since a list that is read
/// while it changes is newer than its tag, and another release may compress in another way.
fn tag(version: Version, coding: Coding) -> String {
    format!("W/\"{}-{}\"", version.text(), coding.name())
}

#[expect(clippy::expect_used, reason = "a release, numbers and words are visible ASCII")]
fn etag(version: Version, coding: Coding) -> HeaderValue {
    HeaderValue::try_from(tag(version, coding)).expect("a tag can stand in a header")
}

fn with_headers(mut response: Response, etag: HeaderValue, coding: Coding) -> Response {
    let is_unchanged = response.status() == StatusCode::NOT_MODIFIED;
    let headers = response.headers_mut();
    // Those that follow and those of every answer, at once.
    headers.reserve(MOST_HEADERS);
    headers.insert(header::ETAG, etag);
    headers.insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if !is_unchanged {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if coding == Coding::Gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
    }
    response
}

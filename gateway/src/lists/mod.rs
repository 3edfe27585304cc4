//! Serves lists: conditionally, compressed, from memory while nothing has changed, and streamed if they
//! are too large for memory.

mod cache;
pub(crate) mod change_notices;
mod document_turns;
mod memory_budget;
mod render;
pub(crate) mod serve_document;
mod streamed;
mod writer;

use std::{convert::Infallible, future::Future, sync::Arc};

use axum::{
    body::Body,
    http::{HeaderValue, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use futures_util::stream;
use shared::telemetry::metrics::{GATEWAY, ListSource};
use tokio::sync::Semaphore;

pub(crate) use self::writer::{ListError, ListWriter, WriteRows};
use self::{
    cache::{Cache, Found, List, Slot, Turn, Written},
    document_turns::Turns,
    memory_budget::Budget,
    render::{Rendering, render},
};
pub(crate) use crate::store::version::DependsOn;
use crate::{
    http::{
        content_coding::{Coding, coding},
        error::ApiError,
        if_none_match::IfNoneMatch,
        reader::Reader,
        transfer::Transfer,
    },
    store::{
        pools::Pool,
        version::{Version, VersionUnreadable, Versions},
    },
};

/// The memory budget in bytes of lists that are being written, read, or read ahead.
const LIST_BYTES: usize = 256 * 1024 * 1024;

/// Maximum number of headers of an answer: those of a list, those of every answer, and its length.
const MAX_HEADERS: usize = 12;

/// The state of serving lists.
pub(crate) struct Lists {
    /// A pool for lists alone, so that they can't block anything else.
    pub(crate) database: Pool,
    /// Reads the version that shows whether cached lists are current.
    versions: Versions,
    /// The cache.
    written: Cache,
    /// The memory budget.
    memory: Budget,
    /// One permit for each streamed list.
    streamed: Arc<Semaphore>,
    /// How many documents are written at once.
    turns: Arc<Turns>,
}

impl Lists {
    /// `streamed` is the maximum number of lists streamed at once.
    pub(crate) fn new(database: Pool, versions: Versions, streamed: usize) -> Self {
        Self {
            turns: Arc::new(Turns::new(database.connections())),
            database,
            versions,
            written: Cache::default(),
            memory: Budget::new(LIST_BYTES, streamed),
            streamed: Arc::new(Semaphore::new(streamed)),
        }
    }
}

/// The part of an answer that depends on the content, besides the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// All that match: no such part, because the list always exists.
    All,
    /// A page: the address of the next one.
    Page,
    /// One object: whether it exists.
    One,
}

/// The requested list.
pub(crate) struct Asked<'a> {
    /// The request.
    pub(crate) reader: &'a Reader,
    /// Everything that the content depends on, except the version of the lists.
    pub(crate) list: String,
    /// What kind of list it is.
    pub(crate) kind: ListKind,
    /// When it is another one.
    pub(crate) depends_on: DependsOn,
}

/// Answers with a list whose rows `rows` writes, now or for an earlier request if nothing has changed since; or with 304
/// if the client has this version.
///
/// # Errors
/// 503 when the database fails before the answer begins, or too many lists are being streamed.
pub(crate) async fn serve(
    lists: &Lists,
    asked: Asked<'_>,
    rows: impl WriteRows,
) -> Result<Response, ApiError> {
    serve_by(lists, asked, |database, writer| writer::write_list(database, writer, rows)).await
}

/// Likewise, with a list that `produce` writes.
async fn serve_by<P>(
    lists: &Lists,
    asked: Asked<'_>,
    produce: impl FnOnce(Pool, ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let Asked { reader: Reader { method, headers, transfer, .. }, kind, .. } = asked;
    let coding = coding(headers);
    let version = lists.versions.now(asked.depends_on).await?;
    let unchanged = || {
        GATEWAY.lists.of(ListSource::Client).inc();
        let mut response = Response::new(unmeasured());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        with_headers(response, etag(version, coding), coding)
    };
    let known = IfNoneMatch::read(headers);
    let has_any = known == IfNoneMatch::Any;
    // Most clients send no tag: then none needs to be computed.
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
    let reader = (!is_head && !has_any).then_some(transfer);
    let wanted =
        ListRequest { list: asked.list, depends_on: asked.depends_on, coding, version, reader };
    let database = lists.database.clone();
    let response = current(lists, wanted, |writer| produce(database, writer)).await?;
    // Only now is it known that the object exists.
    Ok(if has_any { unchanged() } else { response })
}

/// A list to find in memory or to write.
struct ListRequest<'a> {
    list: String,
    depends_on: DependsOn,
    coding: Coding,
    /// The oldest acceptable version.
    version: Version,
    /// The reader of the content; none if it is not needed.
    reader: Option<&'a Arc<Transfer>>,
}

/// The list from memory, or as written by `produce`. Rare paths are boxed, because their state would add
/// a kilobyte to the allocation of every request.
async fn current<P>(
    lists: &Lists,
    wanted: ListRequest<'_>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let ListRequest { list, depends_on, coding, version, reader } = wanted;
    let slot = lists.written.slot(list, coding);
    let written = match slot.find(version).await? {
        Found::Written(written) => written,
        Found::Turn(turn) => {
            let writing = write(lists, (&slot, turn), depends_on, coding, reader, produce);
            return Box::pin(writing).await;
        }
    };
    match &*written {
        Written::Held(list) => {
            GATEWAY.lists.of(ListSource::Memory).inc();
            return Ok(held(list.clone(), coding));
        }
        Written::Gone(_, error) => return Err(error.clone()),
        Written::TooLarge(_) => {}
    }
    let Some(reader) = reader else { return Ok(bare(version, coding)) };
    Box::pin(stream_large(lists, version, coding, reader, produce)).await
}

/// Writes a list for all requests that wait for it.
async fn write<P>(
    lists: &Lists,
    (slot, turn): (&Arc<Slot>, Turn<'_>),
    depends_on: DependsOn,
    coding: Coding,
    reader: Option<&Arc<Transfer>>,
    produce: impl FnOnce(ListWriter) -> P,
) -> Result<Response, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    // Read again, so that the result serves all requests waiting by now: their versions are not later.
    // Read before the rows: if they change meanwhile, the list is newer than its tag, and the next
    // comparison finds another tag.
    let version = lists.versions.now(depends_on).await.map_err(ApiError::from);
    let version = version.inspect_err(|error| turn.failed(error))?;
    let rendering = render(lists, produce, coding).await.inspect_err(|error| {
        // A crowd that follows a dead link is answered from memory, too.
        if depends_on.may_be_old() && error.status() == StatusCode::NOT_FOUND {
            turn.written(Written::Gone(version, error.clone()));
            lists.written.weigh(slot, 0);
        } else {
            turn.failed(error);
        }
    })?;
    match rendering {
        Rendering::Whole { body, next, version: read_at } => {
            GATEWAY.lists.of(ListSource::Rendered).inc();
            let version = read_at.unwrap_or(version);
            lists.written.weigh(slot, body.len());
            let list = List::new(version, coding, body, next);
            turn.written(Written::Held(list.clone()));
            Ok(held(list, coding))
        }
        Rendering::Partial(part) => {
            let version = part.version.unwrap_or(version);
            turn.written(Written::TooLarge(version));
            lists.written.weigh(slot, 0);
            drop(turn);
            // The partial list is discarded.
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
    // Checked before anything is read for a request that would be refused.
    let place = streamed::place(lists)?;
    match render(lists, produce, coding).await? {
        Rendering::Whole { body, next, version: read_at } => {
            GATEWAY.lists.of(ListSource::Rendered).inc();
            let version = read_at.unwrap_or(version);
            Ok(held(List::new(version, coding, body, next), coding))
        }
        Rendering::Partial(part) => {
            let version = part.version.unwrap_or(version);
            respond(lists, version, part, coding, place, reader).await
        }
    }
}

/// Answers with a list that is not cached.
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
    // It is not available while it is being written.
    match &*lists.written.find(list, coding)?.now(version)? {
        Written::Held(list) => {
            GATEWAY.lists.of(ListSource::Memory).inc();
            Some(held(list.clone(), coding))
        }
        Written::TooLarge(_) | Written::Gone(..) => None,
    }
}

/// The headers of a list without its content. Its length is unknown.
fn bare(version: Version, coding: Coding) -> Response {
    GATEWAY.lists.of(ListSource::Memory).inc();
    with_headers(Response::new(unmeasured()), etag(version, coding), coding)
}

/// An empty body instead of one of unknown length: `Content-Length: 0` would be wrong.
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

/// One for each content coding. It is weak, because the bytes of one version may differ: a list that is
/// read while it changes is newer than its tag, and another release may compress differently.
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
    // Reserves space for all following headers at once.
    headers.reserve(MAX_HEADERS);
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

impl From<VersionUnreadable> for ApiError {
    fn from(_: VersionUnreadable) -> Self {
        Self::no_database()
    }
}

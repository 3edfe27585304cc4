//! Streams a list that is too large for memory.
//!
//! A slow reader can't block the database or a permit for long: what it has not read yet is buffered,
//! within a limit; then the database waits, for a few seconds in total; and the whole list must be sent
//! within a time limit.

use std::{sync::Arc, time::Duration, vec};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Lists,
    memory_budget::Reservation,
    render::Partial,
    writer::{Chunk, Chunks, ListError},
};
use crate::http::{
    error::ApiError,
    transfer::{ActiveTransfer, Transfer},
};

/// Time from the first byte to the last. A client that needs longer can read page by page.
const LIMIT: Duration = Duration::from_secs(60);

/// The permit for a streamed list.
pub(super) fn place(lists: &Lists) -> Result<OwnedSemaphorePermit, ApiError> {
    lists.streamed.clone().try_acquire_owned().map_err(|_| {
        ApiError::unavailable("Too many large lists are being read; try again, or use `limit`")
    })
}

/// A list that is being streamed.
struct Streamed {
    begin: vec::IntoIter<Bytes>,
    /// The memory of the beginning.
    share: Option<Reservation>,
    rest: Chunks,
    /// The memory of the read-ahead.
    _ahead: Reservation,
    _place: OwnedSemaphorePermit,
    active: ActiveTransfer,
}

impl Streamed {
    /// The next piece; none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, ListError> {
        if let Some(piece) = self.begin.next() {
            return Ok(Some(piece));
        }
        self.share = None;
        match self.rest.next().await? {
            Chunk::Bytes(piece, _) => Ok(Some(piece)),
            Chunk::End => Ok(None),
            Chunk::Next(_) | Chunk::Of(_) => Err(ListError::Unfinished),
        }
    }
}

/// Answers with a list that begins with this part.
pub(super) async fn respond(
    lists: &Lists,
    part: Partial,
    place: OwnedSemaphorePermit,
    transfer: &Arc<Transfer>,
) -> Result<Response, ApiError> {
    let Partial { begin, share, rest, next, version: _ } = part;
    let ahead = lists.memory.ahead();
    let _ahead = lists.memory.reserve(ahead, &lists.written).await?;
    rest.read_ahead(ahead);
    let active = transfer.begin(LIMIT);
    let begin = begin.into_iter();
    let streamed = Streamed { begin, share, rest, _ahead, _place: place, active };
    let body = Body::from_stream(stream::unfold(Some(streamed), |streamed| async {
        let mut streamed = streamed?;
        match streamed.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(streamed))),
            Ok(None) => {
                streamed.active.finish();
                None
            }
            // Dropped unfinished, it cuts the connection.
            Err(error) => Some((Err(error), None)),
        }
    }));
    Ok(super::with_next(Response::new(body), next))
}

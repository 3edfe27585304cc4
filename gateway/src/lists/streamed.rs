//! Sends a list that is too large to hold.
//!
//! Neither the database nor a place among those who have such a list waits for a slow reader for long:
//! what the reader has not taken yet is kept in memory, as far as there is some for it; then the
//! database waits, some seconds in all; and all of it must be sent within a limit.

use std::{sync::Arc, time::Duration, vec};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::{
    Lists,
    budget::Reservation,
    render::Partial,
    writer::{Chunk, Chunks, ListError},
};
use crate::http::{
    error::ApiError,
    transfer::{Transfer, Underway},
};

/// Time from the first byte to the last. A client that needs longer can read page by page.
const LIMIT: Duration = Duration::from_secs(60);

/// A place among the few that have a list streamed.
pub(super) fn place(lists: &Lists) -> Result<OwnedSemaphorePermit, ApiError> {
    lists.streamed.clone().try_acquire_owned().map_err(|_| {
        ApiError::unavailable("Too many large lists are being read; try again, or use `limit`")
    })
}

/// A list on its way to its reader.
struct Streamed {
    begin: vec::IntoIter<Bytes>,
    /// The memory of the beginning.
    share: Option<Reservation>,
    rest: Chunks,
    /// The memory of what is read ahead.
    _ahead: Reservation,
    _place: OwnedSemaphorePermit,
    underway: Underway,
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
            Chunk::Next(_) => Err(ListError::Unfinished),
        }
    }
}

/// Answers with a list of which this is the beginning.
pub(super) async fn respond(
    lists: &Lists,
    part: Partial,
    place: OwnedSemaphorePermit,
    transfer: &Arc<Transfer>,
) -> Result<Response, ApiError> {
    let Partial { begin, share, rest, next } = part;
    let ahead = lists.memory.ahead();
    let _ahead = lists.memory.reserve(ahead, &lists.written).await?;
    rest.read_ahead(ahead);
    let underway = transfer.begin(LIMIT);
    let begin = begin.into_iter();
    let streamed = Streamed { begin, share, rest, _ahead, _place: place, underway };
    let body = Body::from_stream(stream::unfold(Some(streamed), |streamed| async {
        let mut streamed = streamed?;
        match streamed.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(streamed))),
            Ok(None) => {
                streamed.underway.finish();
                None
            }
            // Dropped unfinished, it cuts the connection.
            Err(error) => Some((Err(error), None)),
        }
    }));
    Ok(super::with_next(Response::new(body), next))
}

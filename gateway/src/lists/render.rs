//! Collects a list in memory while it is small enough.

use std::{future::Future, time::Duration};

use axum::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use shared::{telemetry::chain, throttled};
use tokio::time::timeout;

use super::{
    Lists,
    cache::{Cache, SMALL_BYTES},
    memory_budget::{self, Budget, Reservation},
    writer::{Chunk, Chunks, ListError, ListWriter},
};
use crate::{
    http::{content_coding::Coding, error::ApiError},
    store::version::Version,
};

/// Maximum size of a list in memory; larger ones are streamed.
pub(super) const HELD_BYTES: usize = 4 * 1024 * 1024;
/// Time limit until a list is complete or known to be too large. It is shorter than that of a request, so
/// that requests waiting for the same list get the error.
const RENDER_LIMIT: Duration = Duration::from_secs(20);

/// A list that was started.
pub(super) enum Rendering {
    Whole {
        body: Bytes,
        /// The address of the next page.
        next: Option<HeaderValue>,
        /// The version that its rows were read at, if the list says it.
        version: Option<Version>,
    },
    /// It is too large for memory.
    Partial(Partial),
}

/// The beginning of a list, and the source of the rest.
pub(super) struct Partial {
    pub(super) begin: Vec<Bytes>,
    /// The memory of the beginning.
    pub(super) share: Option<Reservation>,
    pub(super) rest: Chunks,
    pub(super) next: Option<HeaderValue>,
    pub(super) version: Option<Version>,
}

/// Bytes with their reserved memory, which is released when the cache and the last reader have dropped
/// them.
struct OwnedBody {
    bytes: Bytes,
    _share: Reservation,
}

impl AsRef<[u8]> for OwnedBody {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Collects a list until its end, or until it is too large for memory.
pub(super) async fn render<P>(
    lists: &Lists,
    produce: impl FnOnce(ListWriter) -> P,
    coding: Coding,
) -> Result<Rendering, ApiError>
where
    P: Future<Output = Result<ListWriter, ListError>> + Send + 'static,
{
    let (writer, chunks) = ListWriter::new(coding);
    let errors = writer.errors();
    let (produced, replaced) = (produce(writer), lists.database.replaced());
    tokio::spawn(async move {
        let ended = tokio::select! {
            produced = produced => match produced {
                Ok(writer) => writer.finish().await,
                Err(error) => Err(error),
            },
            // It may wait for rows forever.
            () = errors.closed() => Err(ListError::Reader),
            () = replaced => Err(ListError::Replaced),
        };
        if let Err(error) = ended {
            log(&error);
            // A disconnected reader needs no error.
            errors.send(Err(error)).unwrap_or_default();
        }
    });
    let collected = collect(chunks, &lists.memory, &lists.written);
    timeout(RENDER_LIMIT, collected).await.unwrap_or_else(|_| {
        throttled!(warn, "", "a list ended early: the database takes too long");
        Err(ApiError::no_database())
    })
}

fn log(error: &ListError) {
    match error {
        ListError::Reader | ListError::Gone(_) => {
            tracing::debug!(reason = chain(error), "a list ended early");
        }
        ListError::Database(_)
        | ListError::Json(_)
        | ListError::Compression(_)
        | ListError::Replaced
        | ListError::Unfinished => {
            let reason = chain(error);
            throttled!(warn, &reason, reason, "a list ended early");
        }
    }
}

/// Collects the pieces. Memory is reserved before it is filled: that of the pieces and that of the whole
/// list.
async fn collect(
    mut chunks: Chunks,
    memory: &Budget,
    cache: &Cache,
) -> Result<Rendering, ApiError> {
    let (mut pieces, mut length): (Vec<Bytes>, usize) = (Vec::new(), 0);
    let (mut share, mut next, mut version): (Option<Reservation>, _, _) = (None, None, None);
    while length < HELD_BYTES {
        match chunks.next().await {
            Ok(Chunk::Next(link)) => next = Some(link),
            Ok(Chunk::Of(read_at)) => version = Some(read_at),
            Ok(Chunk::Bytes(piece, ahead)) => {
                length += piece.len();
                if share.is_none() && length > SMALL_BYTES {
                    share = Some(memory.reserve(2 * HELD_BYTES, cache).await?);
                }
                pieces.push(piece);
                drop(ahead);
            }
            Ok(Chunk::End) => {
                let body = whole(pieces, length);
                let body = match share {
                    Some(mut share) => {
                        memory_budget::keep(&mut share, length);
                        Bytes::from_owner(OwnedBody { bytes: body, _share: share })
                    }
                    None => body,
                };
                return Ok(Rendering::Whole { body, next, version });
            }
            Err(ListError::Gone(message)) => {
                return Err(ApiError::new(StatusCode::NOT_FOUND, message));
            }
            Err(_) => return Err(ApiError::no_database()),
        }
    }
    if let Some(share) = &mut share {
        memory_budget::keep(share, length);
    }
    Ok(Rendering::Partial(Partial { begin: pieces, share, rest: chunks, next, version }))
}

/// A single piece is returned as it is; several are copied into memory of exactly their size.
fn whole(mut pieces: Vec<Bytes>, length: usize) -> Bytes {
    if pieces.len() == 1 {
        return pieces.pop().unwrap_or_default();
    }
    let mut body = Vec::with_capacity(length);
    pieces.iter().for_each(|piece| body.extend_from_slice(piece));
    body.into()
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::{
        super::cache::{Found, List, Written},
        *,
    };
    const MIB: usize = 1024 * 1024;

    /// Writes a list of this size and collects it.
    async fn collected(bytes: usize, memory: &Budget) -> Result<Rendering, ApiError> {
        let (mut writer, chunks) = ListWriter::new(Coding::Identity);
        let cache = Cache::default();
        let errors = writer.errors();
        let writing = async move {
            for _ in 0..bytes / 1024 {
                writer.buffer().extend_from_slice(&[b'x'; 1024]);
                writer.advance().await?;
            }
            writer.finish().await
        };
        let writing = async {
            tokio::select! {
                written = writing => written,
                () = errors.closed() => Err(ListError::Reader),
            }
        };
        let (collected, _) = tokio::join!(collect(chunks, memory, &cache), writing);
        collected
    }

    #[tokio::test]
    async fn a_list_is_held_as_it_was_written_until_it_is_too_large() {
        let memory = Budget::new(64 * MIB, 1);
        for bytes in [0, 1024, SMALL_BYTES, MIB, HELD_BYTES - 1024] {
            match collected(bytes, &memory).await {
                Ok(Rendering::Whole { body, next: None, .. }) => {
                    assert!(body.len() == bytes && body.iter().all(|byte| *byte == b'x'));
                }
                Ok(_) | Err(_) => panic!("{bytes} are not held"),
            }
        }
        match collected(HELD_BYTES + MIB, &memory).await {
            Ok(Rendering::Partial(part)) => {
                let begin: usize = part.begin.iter().map(Bytes::len).sum();
                assert!((HELD_BYTES..HELD_BYTES + MIB).contains(&begin), "{begin}");
            }
            Ok(_) | Err(_) => panic!("it is not too large"),
        }
    }

    #[tokio::test]
    async fn lists_that_are_written_at_once_take_no_more_memory_than_there_is() {
        // For one that is being written, and three that are complete.
        let memory = Budget::new(2 * HELD_BYTES + 3 * MIB, 1);
        let all = join_all((0..20).map(|_| collected(MIB, &memory))).await;
        let held = all.iter().filter(|list| matches!(list, Ok(Rendering::Whole { .. }))).count();
        assert!((1..=11).contains(&held), "{held} lists of 1 MiB are in 11 MiB");
        assert!(held < all.len(), "all are held");
        // Small ones need none.
        assert!(matches!(collected(1024, &memory).await, Ok(Rendering::Whole { .. })));
        drop(all);
        assert!(matches!(collected(MIB, &memory).await, Ok(Rendering::Whole { .. })));
    }

    #[tokio::test]
    async fn memory_is_taken_from_the_list_that_nobody_asked_for_the_longest() {
        let (memory, cache) = (Budget::new(2 * HELD_BYTES + 3 * MIB, 1), Cache::default());
        for name in ["old", "new"] {
            let Ok(Rendering::Whole { body, next, .. }) = collected(MIB, &memory).await else {
                panic!("{name} is not held")
            };
            let slot = cache.slot(name.to_owned(), Coding::Identity);
            let Ok(Found::Turn(turn)) = slot.find(Version::of(1)).await else { panic!("no turn") };
            turn.written(Written::Held(List::new(Version::of(1), Coding::Identity, body, next)));
            cache.weigh(&slot, MIB);
        }
        let is_kept = |name| cache.find(name, Coding::Identity).is_some();
        drop(memory.reserve(2 * HELD_BYTES, &cache).await.unwrap());
        assert!(is_kept("old"), "there was memory");
        drop(memory.reserve(2 * HELD_BYTES + MIB + MIB / 2, &cache).await.unwrap());
        assert!(!is_kept("old") && is_kept("new"));
    }
}

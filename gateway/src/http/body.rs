//! Reads the body of a request, within limits of size, time and memory.

use std::time::Duration;

use axum::{body::Body, http::StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use shared::telemetry::metrics::{GATEWAY, Refused};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use super::error::ApiError;

/// Maximum size of the body of one update, in bytes.
pub(crate) const MAX_BODY_BYTES: usize = 64 * 1024;
/// Maximum size of a body with many updates, in bytes.
const MAX_MANY_BYTES: usize = 1024 * 1024;
/// Maximum size of a body with alerts, in bytes.
const MAX_ALERTS_BYTES: usize = 4 * 1024 * 1024;
/// Time limit for a client to send its body.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// Memory for bodies with many updates or with alerts, in KiB.
const MEMORY: usize = 16 * 1024;

/// The memory limit for all bodies with many updates or with alerts: `SDB_MAX_IN_FLIGHT` can limit them only
/// once it is known how many updates they have. A single update counts as in flight before its body is read.
pub(crate) struct BodyMemory(Semaphore);

/// Memory reserved for a body; released when dropped.
pub(crate) struct ReservedMemory<'a> {
    memory: &'a BodyMemory,
    taken: Option<SemaphorePermit<'a>>,
}

impl BodyMemory {
    /// 16 MiB.
    pub(crate) const fn new() -> Self {
        Self(Semaphore::const_new(MEMORY))
    }
}

impl ReservedMemory<'_> {
    /// Extends the reservation to this total. It grows as the bytes arrive, so that a client which
    /// announces a large body without sending it does not exclude others.
    fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let kib = bytes.div_ceil(1024);
        let more = kib - self.taken.as_ref().map_or(0, SemaphorePermit::num_permits).min(kib);
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let grown = self.memory.0.try_acquire_many(more).map_err(|_| {
            // Counted as one, because the number of its updates is unknown.
            GATEWAY.refused.of(Refused::InFlight).inc();
            ApiError::unavailable("Too many updates are being read; nothing was queued, try again")
        })?;
        match &mut self.taken {
            Some(taken) => taken.merge(grown),
            None => self.taken = Some(grown),
        }
        Ok(())
    }
}

/// The whole body of one update.
///
/// # Errors
/// 413 when it is too large, 408 when it takes too long, 400 when it is cut off.
pub(crate) async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    collect(body, MAX_BODY_BYTES, "64 KiB", |_| Ok(())).await
}

/// The whole body with many updates, and the memory reserved for it.
///
/// # Errors
/// As [`read`]; 503 when there is no memory for it.
pub(crate) async fn read_many(
    body: Body,
    memory: &BodyMemory,
) -> Result<(Vec<u8>, ReservedMemory<'_>), ApiError> {
    read_reserved(body, MAX_MANY_BYTES, "1 MiB", memory).await
}

/// The whole body with alerts, and the memory reserved for it.
///
/// # Errors
/// As [`read`]; 503 when there is no memory for it.
pub(crate) async fn read_alerts(
    body: Body,
    memory: &BodyMemory,
) -> Result<(Vec<u8>, ReservedMemory<'_>), ApiError> {
    read_reserved(body, MAX_ALERTS_BYTES, "4 MiB", memory).await
}

async fn read_reserved<'a>(
    body: Body,
    largest: usize,
    in_words: &str,
    memory: &'a BodyMemory,
) -> Result<(Vec<u8>, ReservedMemory<'a>), ApiError> {
    let mut share = ReservedMemory { memory, taken: None };
    let bytes = collect(body, largest, in_words, |bytes| share.grow(bytes)).await?;
    Ok((bytes, share))
}

/// 413: `what` is larger than `bytes`.
pub(crate) fn too_large(what: &str, bytes: &str) -> ApiError {
    let message = format!("The {what} is larger than {bytes}");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
}

async fn collect(
    body: Body,
    largest: usize,
    in_words: &str,
    mut set_aside: impl FnMut(usize) -> Result<(), ApiError>,
) -> Result<Vec<u8>, ApiError> {
    let mut body = Limited::new(body, largest);
    // Frame by frame: a body of one-byte chunks must not cost more than its bytes.
    let collected = timeout(BODY_LIMIT, async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return too_large("body", in_words);
                }
                ApiError::bad_request("The body ended before its announced length")
            })?;
            if let Ok(data) = frame.into_data() {
                set_aside(bytes.len() + data.len())?;
                bytes.extend_from_slice(&data);
            }
        }
        Ok(bytes)
    });
    collected.await.unwrap_or_else(|_| {
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive within 10 s"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1024 * 1024;

    #[tokio::test]
    async fn bodies_take_no_more_memory_than_there_is() {
        let memory = BodyMemory::new();
        let body = |bytes: usize| read_many(Body::from(vec![b' '; bytes]), &memory);
        let mut held = Vec::new();
        for _ in 0..16 {
            let (bytes, share) = body(MIB).await.expect("there is memory");
            assert_eq!(bytes.len(), MIB);
            held.push(share);
        }
        let refused = body(1).await.err().expect("there is none");
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        held.pop();
        drop(body(MIB).await.expect("it was given back"));
        let refused = body(MIB + 1).await.err().expect("it is too large");
        assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
        drop(held);
        assert_eq!(memory.0.available_permits(), MEMORY);
    }
}

//! Reads the body of a request, within limits of size and time.

use std::time::Duration;

use axum::{body::Body, http::StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::error::ApiError;

/// Bytes of a body, at most.
const LARGEST_BODY: usize = 64 * 1024;
/// Time that a client may take to send its body.
const BODY_LIMIT: Duration = Duration::from_secs(10);

/// All of a body.
///
/// # Errors
/// 413 when it is too large, 408 when it takes too long, 400 when it is cut off.
pub(crate) async fn read(body: Body) -> Result<Vec<u8>, ApiError> {
    let mut body = Limited::new(body, LARGEST_BODY);
    // Frame by frame: a body of one-byte chunks must not cost more than its bytes.
    let collected = timeout(BODY_LIMIT, async {
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                bytes.extend_from_slice(&data);
            }
        }
        Ok::<_, axum::BoxError>(bytes)
    });
    match collected.await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 64 KiB"))
        }
        Ok(Err(_)) => Err(ApiError::bad_request("The body ended before its announced length")),
        Err(_) => {
            Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "The body did not arrive within 10 s"))
        }
    }
}

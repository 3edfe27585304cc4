//! The checks before the body of a request with updates is read, and the answers when one fails.

use axum::http::{HeaderMap, StatusCode, header};

use crate::{
    http::{
        body_headers::{is_json, is_uncoded},
        error::ApiError,
    },
    shutdown_stages::Stop,
};

/// A refusal that leaves the body unread closes the connection, and must announce that: otherwise the
/// client would send its next request on it.
pub(crate) fn unread(error: ApiError) -> ApiError {
    error.with(header::CONNECTION, "close")
}

/// Checks that the headers declare the body as uncompressed JSON.
///
/// # Errors
/// 415 when it is not.
pub(crate) fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    if !is_json(headers) {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "The body must be sent as `Content-Type: application/json`",
        ));
    }
    if !is_uncoded(headers) {
        let message = "The body must be sent as it is, without a `Content-Encoding`";
        let error = ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message);
        // RFC 9110, 15.5.16.
        return Err(error.with(header::ACCEPT_ENCODING, "identity"));
    }
    Ok(())
}

/// Awaits `reading` a body.
///
/// # Errors
/// Those of `reading`; 503 if the gateway stops first.
pub(crate) async fn read<T>(
    stop: &Stop,
    reading: impl Future<Output = Result<T, ApiError>>,
) -> Result<T, ApiError> {
    let read = tokio::select! {
        biased;
        read = reading => read,
        () = stop.ends() => Err(ApiError::stopping()),
    };
    read.map_err(unread)
}

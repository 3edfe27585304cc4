//! What of a request its answer depends on, for endpoints that only read.

use std::{convert::Infallible, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Method, Uri, request::Parts},
};

use super::transfer::Transfer;

/// A request without a body.
pub(crate) struct Reader {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    /// The responses of its connection.
    pub(crate) transfer: Arc<Transfer>,
}

impl<S: Sync> FromRequestParts<S> for Reader {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            headers: parts.headers.clone(),
            // Each connection has one.
            transfer: parts.extensions.get().cloned().unwrap_or_else(Transfer::new),
        })
    }
}

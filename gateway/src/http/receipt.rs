//! Where an update's receipt is, as answers say it: in headers and in texts.

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use shared::domain::update_id::UpdateId;

/// The path of an update's receipt.
pub(crate) fn path(id: UpdateId) -> String {
    format!("/api/v1/updates/{id}")
}

/// A response with the id of its update.
pub(crate) fn with_id(id: UpdateId, response: impl IntoResponse) -> Response {
    let mut response = response.into_response();
    insert(&mut response, HeaderName::from_static("update-id"), &id.to_string());
    response
}

/// A response with the id of its update, and a link to the receipt.
pub(crate) fn with_link(id: UpdateId, response: impl IntoResponse) -> Response {
    let mut response = with_id(id, response);
    insert(&mut response, header::LINK, &format!("<{}>; rel=\"monitor\"", path(id)));
    response
}

/// A response with the id of its update, a link to the receipt, and its location.
pub(crate) fn with_location(id: UpdateId, response: impl IntoResponse) -> Response {
    let mut response = with_link(id, response);
    insert(&mut response, header::LOCATION, &path(id));
    response
}

fn insert(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

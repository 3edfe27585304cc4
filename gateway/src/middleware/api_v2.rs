//! What all answers below `/v2` have: headers that let scripts of other sites read them, and errors in the form of
//! API v2.

use axum::{
    Json,
    extract::Request,
    http::{HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::error::{Refusal, with_body};

/// Where it is.
pub(crate) const BELOW: &str = "/v2/";
/// Seconds for which a browser may keep the answer to OPTIONS.
const MAX_AGE: HeaderValue = HeaderValue::from_static("86400");

/// Why a request was refused.
#[derive(Serialize, ToSchema)]
#[schema(as = ErrorV2, example = json!({ "errMsg": "event does not exist" }))]
pub(crate) struct ErrorV2Json<'a> {
    /// What is wrong, for people.
    #[serde(rename = "errMsg")]
    message: &'a str,
}

/// Answers OPTIONS without asking for a token, and completes all other answers.
pub(crate) async fn api_v2(request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with(BELOW) {
        return next.run(request).await;
    }
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        let mut response = next.run(request).await;
        match response.extensions_mut().remove() {
            Some(Refusal(message)) => with_body(response, Json(ErrorV2Json { message: &message })),
            None => response,
        }
    };
    let headers = response.headers_mut();
    let allow = |value| HeaderValue::from_static(value);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allow("*"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        allow("Content-Type, Authorization, Cache-Control, X-Requested-With"),
    );
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allow("GET, POST, PATCH, PUT, OPTIONS"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, MAX_AGE);
    response
}

//! The error body of the API, and how errors become answers.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use shared::{telemetry::chain, throttled};
use utoipa::ToSchema;

/// Value of `Retry-After` in seconds for errors that are temporary.
pub(crate) const RETRY_AFTER: &str = "1";

/// An error response, with a fixed text for the client. The cause is logged.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    message: String,
    errors: Option<Value>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// The message of an error, which its response carries for answers in another form.
#[derive(Clone)]
pub(crate) struct Refusal(pub(crate) String);

/// The same answer with another body.
pub(crate) fn with_body(answer: Response, body: impl IntoResponse) -> Response {
    let (mut parts, _) = answer.into_parts();
    let (of_body, body) = body.into_response().into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.extend(of_body.headers);
    Response::from_parts(parts, body)
}

/// Why a request was refused.
#[derive(Serialize, ToSchema)]
#[schema(as = Error, example = json!({
    "code": 422,
    "status": "Unprocessable Entity",
    "message": "Some fields can't be used: see `errors`",
    "errors": { "json": { "impact": ["Missing data for required field."] } },
}))]
pub(crate) struct ErrorJson<'a> {
    /// The HTTP status of the answer.
    code: u16,
    /// The standard name of the status.
    status: &'a str,
    /// What is wrong, for people.
    message: &'a str,
    /// The errors of each invalid field or parameter, below `json` or `query`. Absent if none is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Object, required = false)]
    errors: Option<&'a Value>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), errors: None, headers: Vec::new() }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 422 with the fields at fault, below `location` (`json` or `query`).
    pub(crate) fn unprocessable(location: &str, fields: Value) -> Self {
        let mut error =
            Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Some fields can't be used: see `errors`");
        error.errors = Some(json!({ location: fields }));
        error
    }

    /// 503 for a temporary error.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).with(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// 503 because the database did not answer.
    pub(crate) fn no_database() -> Self {
        Self::unavailable("The database can't be read now; try again")
    }

    /// 503 for updates that were not queued, because the gateway stops.
    pub(crate) fn stopping() -> Self {
        Self::unavailable("The gateway is stopping; nothing was queued, try again")
    }

    /// 429 for a client over its limit.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, message).with(header::RETRY_AFTER, RETRY_AFTER)
    }

    /// The status that it is answered with.
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// The status, the message and the errors of fields, as a part of another answer.
    pub(crate) fn into_parts(self) -> (StatusCode, String, Option<Value>) {
        (self.status, self.message, self.errors)
    }

    #[must_use]
    pub(crate) fn with(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, HeaderValue::from_static(value)));
        self
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        let reason = chain(&error);
        throttled!(warn, &reason, reason, "the database did not answer a request");
        Self::no_database()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = ErrorJson {
            code: self.status.as_u16(),
            status: self.status.canonical_reason().unwrap_or("Error"),
            message: &self.message,
            errors: self.errors.as_ref(),
        };
        let mut response = (self.status, Json(body)).into_response();
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(Refusal(self.message));
        response
    }
}

//! Errors as pages.

use std::sync::Arc;

use askama::Template;
use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{Html, IntoResponse, Response},
};

use super::frame::POLICY;
use crate::{
    config::PageConfig,
    gateway::App,
    http::{
        api_path::is_of_api,
        error::{ApiError, with_body},
    },
};

#[derive(Template)]
#[template(path = "pages/error.html")]
struct ErrorPage<'a> {
    base: String,
    site: &'a str,
    heading: &'a str,
    message: &'a str,
    /// Whether to try again may help.
    is_temporary: bool,
}

/// An answer, or an error as a page.
pub(super) fn page(app: &App, answer: Result<Response, ApiError>) -> Response {
    let mut response = answer.unwrap_or_else(|error| error_page(&app.pages, error));
    response
        .headers_mut()
        .insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    response
}

/// What is at no path: a page for a person who does not ask for the API.
pub(crate) async fn nothing(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    let error = ApiError::new(StatusCode::NOT_FOUND, "There is nothing at this path");
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let is_person = accepts.is_some_and(|types| types.contains("text/html"));
    if app.pages.are_served && is_person && !is_of_api(uri.path()) {
        page(&app, Err(error))
    } else {
        error.into_response()
    }
}

fn error_page(pages: &PageConfig, error: ApiError) -> Response {
    let status = error.status();
    let response = error.clone().into_response();
    let (_, message, _) = error.into_parts();
    let heading = match status {
        StatusCode::NOT_FOUND => "There is no such page",
        StatusCode::SERVICE_UNAVAILABLE => "The state can't be shown now",
        _ => "This page can't be shown",
    };
    let page = ErrorPage {
        base: pages.base(),
        site: &pages.title,
        heading,
        message: &message,
        is_temporary: status == StatusCode::SERVICE_UNAVAILABLE,
    };
    // Its texts always can be written; otherwise the error of the API is the answer.
    match page.render() {
        Ok(html) => with_body(response, Html(html)),
        Err(_) => response,
    }
}

//! Lets scripts of other sites read what is public.

use axum::{
    extract::Request,
    http::{HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};

/// Adds the header to answers to GET and HEAD. What needs a token stays closed: a browser asks with OPTIONS before it
/// sends one, and gets no permission.
pub(crate) async fn readable(request: Request, next: Next) -> Response {
    let only_reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let mut response = next.run(request).await;
    if only_reads {
        let all = HeaderValue::from_static("*");
        response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, all);
    }
    response
}

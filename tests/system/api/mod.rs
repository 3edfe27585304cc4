//! The API as clients meet it: who may post, what is refused, what each answer says.

mod answers;
mod conformance;
mod headers;
mod idempotency;
mod openapi;
mod paths;
mod python_api;
mod waiting;

use harness::tests_of;

tests_of!(answers, conformance, headers, idempotency, openapi, paths, python_api, waiting);

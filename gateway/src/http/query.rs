//! The query parameters of the lists.

use std::collections::HashMap;

use axum::http::Uri;
use serde_json::{Map, Value, json};
use shared::domain::{component::MAX_ATTRIBUTE_LENGTH, impact::Impact, timestamp::Timestamp};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{RefOr, Schema},
};

use super::{
    error::ApiError,
    impact::{ImpactInput, impact_from_text},
    schema,
};

/// Maximum number of incidents on a page.
const MAX_PAGE_SIZE: u32 = 1_000;
/// The values of a boolean parameter: off, and on.
const OFF: [&str; 3] = ["false", "0", "False"];
const ON: [&str; 4] = ["true", "1", "True", ""];
/// Query parameters. The last of a repeated one counts; unknown ones are ignored.
pub(crate) struct Query {
    parameters: HashMap<String, String>,
    wrong: Map<String, Value>,
}

/// The last incident of a page: the next page starts after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    pub(crate) start_date: Timestamp,
    pub(crate) id: i32,
}

impl Cursor {
    pub(crate) fn text(self) -> String {
        format!("{}.{}", self.start_date.to_exact_text(), self.id)
    }

    fn parse(text: &str) -> Option<Self> {
        let (start_date, id) = text.split_once('.')?;
        let start_date = Timestamp::from_exact_text(start_date)?;
        Some(Self { start_date, id: id.parse().ok()? })
    }
}

impl Query {
    pub(crate) fn new(uri: &Uri) -> Self {
        let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        Self { parameters: pairs.into_owned().collect(), wrong: Map::new() }
    }

    /// Removes and returns a text. PostgreSQL's text can't contain NUL, so no row equals a text with one.
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let text = self.parameters.remove(name)?;
        if text.contains('\0') {
            self.refuse(name, "Must not contain NUL.");
            return None;
        }
        Some(text)
    }

    /// Removes and returns the name or the value of an attribute.
    pub(crate) fn attribute_text(&mut self, name: &str) -> Option<String> {
        let text = self.text(name)?;
        if text.chars().count() > MAX_ATTRIBUTE_LENGTH {
            self.refuse(name, &format!("Longer than maximum length {MAX_ATTRIBUTE_LENGTH}."));
            return None;
        }
        Some(text)
    }

    pub(crate) fn switch(&mut self, name: &str) -> bool {
        match self.text(name) {
            None => false,
            Some(text) if OFF.contains(&text.as_str()) => false,
            Some(text) if ON.contains(&text.as_str()) => true,
            Some(_) => {
                self.refuse(name, "Must be `true` or `false`.");
                false
            }
        }
    }

    pub(crate) fn impact(&mut self, name: &str) -> Option<Impact> {
        match impact_from_text(&self.text(name)?) {
            ImpactInput::Impact(impact) => Some(impact),
            ImpactInput::OutOfRange | ImpactInput::Unreadable => {
                self.refuse(name, "Must be 0 to 3, or one of the words.");
                None
            }
        }
    }

    pub(crate) fn limit(&mut self, name: &str) -> Option<u32> {
        let limit =
            self.text(name)?.parse().ok().filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit));
        if limit.is_none() {
            self.refuse(name, "Must be a whole number from 1 to 1000.");
        }
        limit
    }

    pub(crate) fn cursor(&mut self, name: &str) -> Option<Cursor> {
        let cursor = Cursor::parse(&self.text(name)?);
        if cursor.is_none() {
            self.refuse(name, "Must be taken from the `Link` header of the page before.");
        }
        cursor
    }

    /// Records the error of a parameter; the first one counts.
    pub(crate) fn refuse(&mut self, name: &str, problem: &str) {
        self.wrong.entry(name).or_insert_with(|| json!([problem]));
    }

    /// Checks that all parameters were valid.
    ///
    /// # Errors
    /// 422 with the invalid parameters.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        if self.wrong.is_empty() {
            return Ok(());
        }
        Err(ApiError::unprocessable("query", Value::Object(self.wrong)))
    }
}

/// What [`Query::switch`] takes, for the document.
pub(crate) struct Switch;

impl PartialSchema for Switch {
    fn schema() -> RefOr<Schema> {
        schema::one_of(ON.into_iter().chain(OFF)).into()
    }
}

impl ToSchema for Switch {}

/// What [`Query::impact`] takes, for the document.
pub(crate) struct AnyImpact;

impl PartialSchema for AnyImpact {
    fn schema() -> RefOr<Schema> {
        let impacts = [Impact::Maintenance].into_iter().chain(Impact::REPORTABLE);
        let ways = impacts.flat_map(|i| [i16::from(i).to_string(), i.word().to_owned()]);
        schema::one_of(ways).into()
    }
}

impl ToSchema for AnyImpact {}

//! A node of a file: a text, a list or a mapping, with its line.

use std::rc::Rc;

use super::scalar::Scalar;

/// An error, with its line.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct YamlError {
    /// The file's line, from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

/// An error in a line.
#[must_use]
pub fn error(line: u64, reason: impl Into<String>) -> YamlError {
    YamlError { line, reason: reason.into() }
}

/// A node and the line in which it is used: that of its alias, where there is one.
#[derive(Clone, Debug)]
pub struct Node {
    /// The file's line, from 1.
    pub line: u64,
    pub(super) content: Rc<Content>,
}

#[derive(Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Mapping(Vec<(Node, Node)>),
}

impl Node {
    /// The list's nodes, if it is one.
    pub fn list(&self) -> Option<&[Self]> {
        match &*self.content {
            Content::List(nodes) => Some(nodes),
            Content::Scalar(_) | Content::Mapping(_) => None,
        }
    }

    /// Whether it is nothing: `null`, `~`, or not written at all.
    pub fn is_null(&self) -> bool {
        matches!(&*self.content, Content::Scalar(Scalar::Null))
    }

    /// Whether nothing is in it: it is null, or a list or a mapping without entries.
    pub fn is_empty(&self) -> bool {
        match &*self.content {
            Content::Scalar(scalar) => *scalar == Scalar::Null,
            Content::List(nodes) => nodes.is_empty(),
            Content::Mapping(entries) => entries.is_empty(),
        }
    }

    /// The text. `what` says what it is to be, for the error message.
    ///
    /// # Errors
    /// When it is none, or when the Python dashboard would store it in another form.
    pub fn text(&self, what: &str) -> Result<&str, YamlError> {
        match &*self.content {
            Content::Scalar(scalar) => {
                scalar.text().map_err(|reason| error(self.line, format!("{what} {reason}")))
            }
            Content::List(_) | Content::Mapping(_) => Err(self.not_text(what)),
        }
    }

    /// The text as it is written, also where YAML reads a boolean, a number or a time. `what` says what it
    /// is to be, for the error message.
    ///
    /// # Errors
    /// When it is empty, a list or a mapping.
    pub fn written(&self, what: &str) -> Result<&str, YamlError> {
        match &*self.content {
            Content::Scalar(Scalar::Other { written, .. }) => Ok(written),
            Content::Scalar(_) => self.text(what),
            Content::List(_) | Content::Mapping(_) => Err(self.not_text(what)),
        }
    }

    fn not_text(&self, what: &str) -> YamlError {
        let kind = if self.list().is_some() { "a list" } else { "a mapping" };
        error(self.line, format!("{what} is {kind}, not a text"))
    }
}

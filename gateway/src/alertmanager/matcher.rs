//! Matchers of labels, in Alertmanager's syntax.

use std::{collections::BTreeMap, fmt, iter::Peekable, str::Chars};

use regex::Regex;

use super::{alert::Labels, expression};

/// Characters that an unquoted name of a label can't have.
const RESERVED: [char; 10] = ['{', '}', '!', '=', '~', ',', '\\', '"', '\'', '`'];

/// The named groups of expressions, with what they matched.
pub(crate) type Groups<'a> = BTreeMap<&'a str, &'a str>;

/// Selects alerts by the value of one label. A label that an alert lacks has the empty value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Matcher {
    label: String,
    comparison: Comparison,
}

/// What the label's value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Comparison {
    Equal(String),
    NotEqual(String),
    Matching(Expression),
    NotMatching(Expression),
}

/// A regular expression of Go's, which matches whole values.
#[derive(Clone, Debug)]
struct Expression {
    written: String,
    compiled: Regex,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Expression {}

impl Matcher {
    /// The matcher for one value.
    pub(crate) fn equal(label: &str, value: &str) -> Self {
        Self { label: label.to_owned(), comparison: Comparison::Equal(value.to_owned()) }
    }

    /// The label.
    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    /// The only value that it admits, if it is for one value.
    pub(crate) fn value(&self) -> Option<&str> {
        match &self.comparison {
            Comparison::Equal(value) => Some(value),
            Comparison::NotEqual(_) | Comparison::Matching(_) | Comparison::NotMatching(_) => None,
        }
    }

    /// The expression that values must match as it is written, if it has one.
    pub(crate) fn expression(&self) -> Option<&str> {
        match &self.comparison {
            Comparison::Matching(expression) => Some(&expression.written),
            Comparison::Equal(_) | Comparison::NotEqual(_) | Comparison::NotMatching(_) => None,
        }
    }

    /// The names of the groups that it gives a value.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &str> {
        let compiled = match &self.comparison {
            Comparison::Matching(expression) => Some(&expression.compiled),
            Comparison::Equal(_) | Comparison::NotEqual(_) | Comparison::NotMatching(_) => None,
        };
        compiled.into_iter().flat_map(Regex::capture_names).flatten()
    }

    /// Whether it admits this value of its label.
    pub(crate) fn admits(&self, value: &str) -> bool {
        match &self.comparison {
            Comparison::Equal(wanted) => value == wanted,
            Comparison::NotEqual(unwanted) => value != unwanted,
            Comparison::Matching(expression) => expression.compiled.is_match(value),
            Comparison::NotMatching(expression) => !expression.compiled.is_match(value),
        }
    }

    /// Whether it matches an alert with these labels; adds what its groups matched.
    pub(crate) fn matches<'a>(&'a self, labels: &'a Labels, groups: &mut Groups<'a>) -> bool {
        let value = labels.get(&self.label).map_or("", String::as_str);
        let Comparison::Matching(Expression { compiled, .. }) = &self.comparison else {
            return self.admits(value);
        };
        let Some(captures) = compiled.captures(value) else { return false };
        for name in self.groups() {
            groups.extend(captures.name(name).map(|group| (name, group.as_str())));
        }
        true
    }
}

/// Reads matchers, separated by commas, within braces or without.
///
/// Of a value, `\"`, `\\` and `\n` are a quote, a backslash and a line feed. Any other backslash is one, so
/// that those of an expression need not be doubled.
///
/// # Errors
/// When it is not of that form; the text says what to write.
pub(crate) fn parse(text: &str) -> Result<Vec<Matcher>, String> {
    let trimmed = text.trim();
    let inner = match trimmed.strip_prefix('{') {
        Some(rest) => rest
            .strip_suffix('}')
            .ok_or_else(|| format!("`{trimmed}` has a `{{` without its `}}`"))?,
        None => trimmed,
    };
    let mut rest = inner.chars().peekable();
    let mut matchers = Vec::new();
    loop {
        skip_spaces(&mut rest);
        if rest.peek().is_none() {
            break;
        }
        matchers.push(one(&mut rest).map_err(|problem| format!("`{trimmed}`: {problem}"))?);
        skip_spaces(&mut rest);
        match rest.next() {
            None => break,
            Some(',') => {}
            Some(other) => {
                return Err(format!("`{trimmed}`: `{other}` is where a comma or the end is to be"));
            }
        }
    }
    if matchers.is_empty() {
        return Err("a matcher is empty: write one such as `team=\"storage\"`".to_owned());
    }
    Ok(matchers)
}

fn one(rest: &mut Peekable<Chars<'_>>) -> Result<Matcher, String> {
    let label = label(rest)?;
    skip_spaces(rest);
    let (is_equal, has_expression) = match (rest.next(), rest.next_if(|c| ['=', '~'].contains(c))) {
        (Some('='), None) => (true, false),
        (Some('='), Some('~')) => (true, true),
        (Some('!'), Some('=')) => (false, false),
        (Some('!'), Some('~')) => (false, true),
        (Some('='), Some(_)) => {
            return Err(format!("write `=` for equal, as in `{label}=\"value\"`"));
        }
        _ => return Err(format!("`=`, `!=`, `=~` or `!~` is missing after `{label}`")),
    };
    skip_spaces(rest);
    let value = value(rest)?;
    let comparison = match (is_equal, has_expression) {
        (true, false) => Comparison::Equal(value),
        (false, false) => Comparison::NotEqual(value),
        (is_equal, true) => {
            let compiled = expression::compile(&value)
                .map_err(|problem| format!("the expression `{value}` can't be used: {problem}"))?;
            let expression = Expression { written: value, compiled };
            if is_equal {
                Comparison::Matching(expression)
            } else {
                Comparison::NotMatching(expression)
            }
        }
    };
    Ok(Matcher { label, comparison })
}

fn label(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let label = if rest.peek() == Some(&'"') {
        quoted(rest)?
    } else {
        let mut label = String::new();
        while let Some(c) = rest.next_if(|c| !c.is_whitespace() && !RESERVED.contains(c)) {
            label.push(c);
        }
        label
    };
    if label.is_empty() {
        return Err("the name of a label is missing: write `name=\"value\"`".to_owned());
    }
    Ok(label)
}

/// A value, in quotes or up to the next comma.
fn value(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    match rest.peek() {
        Some('"') => return quoted(rest),
        Some(quote @ ('\'' | '`')) => {
            return Err(format!("a value can't begin with {quote}: write it in double quotes"));
        }
        Some(_) | None => {}
    }
    let mut written = String::new();
    while let Some(c) = rest.next_if(|c| *c != ',') {
        if c == '"' && !written.ends_with('\\') {
            return Err("a value that has a double quote is to be in double quotes".to_owned());
        }
        written.push(c);
    }
    Ok(unescaped(written.trim()))
}

fn quoted(rest: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    rest.next();
    let mut written = String::new();
    loop {
        match rest.next() {
            Some('"') => return Ok(unescaped(&written)),
            Some('\\') => {
                written.push('\\');
                written.extend(rest.next());
            }
            Some(c) => written.push(c),
            None => return Err("a double quote is not closed".to_owned()),
        }
    }
}

fn unescaped(written: &str) -> String {
    let mut text = String::with_capacity(written.len());
    let mut rest = written.chars().peekable();
    while let Some(c) = rest.next() {
        let escaped = if c == '\\' { rest.next_if(|c| ['"', '\\', 'n'].contains(c)) } else { None };
        text.push(match escaped {
            Some('n') => '\n',
            Some(escaped) => escaped,
            None => c,
        });
    }
    text
}

fn skip_spaces(rest: &mut Peekable<Chars<'_>>) {
    while rest.next_if(|c| c.is_whitespace()).is_some() {}
}

/// In quotes, with what must be escaped there.
fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = !self.label.contains(|c: char| c.is_whitespace() || RESERVED.contains(&c));
        let label = if is_plain { self.label.clone() } else { quote(&self.label) };
        let (operator, value) = match &self.comparison {
            Comparison::Equal(value) => ("=", value),
            Comparison::NotEqual(value) => ("!=", value),
            Comparison::Matching(expression) => ("=~", &expression.written),
            Comparison::NotMatching(expression) => ("!~", &expression.written),
        };
        write!(f, "{label}{operator}{}", quote(value))
    }
}

#[cfg(test)]
mod tests;

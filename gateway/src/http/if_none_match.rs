//! The versions of a response that a client has, by the header `If-None-Match`.

use axum::http::{HeaderMap, header};

/// Optional white space.
const OWS: [char; 2] = [' ', '\t'];

/// The versions that a client has according to `If-None-Match` (RFC 9110, 13.1.2).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum IfNoneMatch {
    /// Any one.
    Any,
    /// Those of these tags, each with its quotes, without `W/`: they are compared weakly.
    Tags(Vec<String>),
}

impl IfNoneMatch {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let mut tags = Vec::new();
        let values = headers.get_all(header::IF_NONE_MATCH).into_iter();
        for text in values.filter_map(|value| value.to_str().ok()) {
            if text.trim_matches(OWS) == "*" {
                return Self::Any;
            }
            let mut rest = text;
            // A malformed part and everything after it can't be one of our tags.
            while let Some((tag, after)) = first_tag(rest) {
                tags.push(tag.to_owned());
                rest = after;
            }
        }
        Self::Tags(tags)
    }

    /// Whether there is any tag among them.
    pub(crate) fn names_tags(&self) -> bool {
        matches!(self, Self::Tags(tags) if !tags.is_empty())
    }

    /// Whether this tag is among them.
    pub(crate) fn has(&self, tag: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Tags(tags) => tags.iter().any(|known| known == opaque(tag)),
        }
    }
}

/// The first tag of a list, and what follows it.
fn first_tag(list: &str) -> Option<(&str, &str)> {
    let tag = opaque(list.trim_start_matches([' ', '\t', ',']));
    let end = tag.strip_prefix('"')?.find('"')? + 2;
    let (tag, rest) = tag.split_at(end);
    let rest = rest.trim_start_matches(OWS);
    (rest.is_empty() || rest.starts_with(',')).then_some((tag, rest))
}

/// A tag without what makes it weak.
fn opaque(tag: &str) -> &str {
    tag.strip_prefix("W/").unwrap_or(tag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_NONE_MATCH, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn tags_are_compared_weakly() {
        for (values, expected) in [
            (&["\"5-gzip\""][..], true),
            (&["W/\"5-gzip\""], true),
            (&["\"4-gzip\", \"5-gzip\""], true),
            (&["\"4-gzip\"", "W/\"5-gzip\""], true),
            (&[" ,\"a,b\"\t,,W/\"5-gzip\" "], true),
            (&["*"], false),
            (&["\"5-identity\""], false),
            (&["5-gzip"], false),
            (&["w/\"5-gzip\""], false),
            (&["\"a, \"5-gzip\""], false),
            (&["\"5-gzip"], false),
            (&["\"5-gzip\"x"], false),
            (&["\""], false),
            (&[""], false),
            (&[], false),
        ] {
            let known = IfNoneMatch::read(&with(values));
            for tag in ["\"5-gzip\"", "W/\"5-gzip\""] {
                assert_eq!(known.has(tag), expected, "{values:?}");
            }
        }
        for values in [&["*"][..], &[" * "], &["\"5\"", "*"]] {
            assert_eq!(IfNoneMatch::read(&with(values)), IfNoneMatch::Any);
        }
        let tags = IfNoneMatch::read(&with(&["\"*\", *"]));
        assert_eq!(tags, IfNoneMatch::Tags(vec!["\"*\"".to_owned()]));
    }
}

//! Conditional requests and content negotiation for lists: the codings that a client accepts, and the
//! versions that it has.

use axum::http::{HeaderMap, HeaderName, header};

/// How a body is coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Coding {
    Identity,
    Gzip,
}

impl Coding {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
        }
    }
}

/// gzip if the client accepts it and does not prefer identity (RFC 9110, 12.5.3). Malformed parts of the
/// header are ignored.
pub(crate) fn coding(headers: &HeaderMap) -> Coding {
    let (mut gzip, mut identity, mut others) = (None, None, None);
    for element in texts(headers, header::ACCEPT_ENCODING).flat_map(|text| text.split(',')) {
        let mut parts = element.split(';').map(|part| part.trim_matches(OWS));
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let Some(weight) = weight(parts) else { continue };
        let of = match name.as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut others,
            _ => continue,
        };
        // The first of a repeated coding counts.
        of.get_or_insert(weight);
    }
    let gzip = gzip.or(others).unwrap_or(0);
    if gzip > 0 && gzip >= identity.unwrap_or(0) { Coding::Gzip } else { Coding::Identity }
}

/// Optional white space.
const OWS: [char; 2] = [' ', '\t'];

/// The weight among the parameters of a coding, in thousandths; 1 by default, none if it is malformed.
fn weight<'a>(mut parameters: impl Iterator<Item = &'a str>) -> Option<u32> {
    let is_q = |parameter: &&str| parameter.get(..2).is_some_and(|q| q.eq_ignore_ascii_case("q="));
    let Some(value) = parameters.find(is_q).and_then(|parameter| parameter.get(2..)) else {
        return Some(1_000);
    };
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = fraction.bytes().all(|digit| digit.is_ascii_digit()) && fraction.len() <= 3;
    let fraction = format!("{fraction:0<3}").parse().ok().filter(|_| digits)?;
    match (whole, fraction) {
        ("0", fraction) => Some(fraction),
        ("1", 0) => Some(1_000),
        _ => None,
    }
}

/// The versions that a client has according to `If-None-Match` (RFC 9110, 13.1.2).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Any one.
    Any,
    /// Those of these tags, each with its quotes, without `W/`: they are compared weakly.
    Tags(Vec<String>),
}

impl Known {
    pub(crate) fn read(headers: &HeaderMap) -> Self {
        let mut tags = Vec::new();
        for text in texts(headers, header::IF_NONE_MATCH) {
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

fn texts(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name.clone(), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        for (values, expected) in [
            (&["gzip"][..], Coding::Gzip),
            (&["GZIP"], Coding::Gzip),
            (&["x-gzip"], Coding::Gzip),
            (&["br, gzip;q=0.5"], Coding::Gzip),
            (&["br", "gzip"], Coding::Gzip),
            (&["gzip;q=0.001"], Coding::Gzip),
            (&["gzip\t;\tQ=1.000 ,"], Coding::Gzip),
            (&["*"], Coding::Gzip),
            (&["*;q=0.1"], Coding::Gzip),
            (&["identity;q=0.5, gzip;q=0.5"], Coding::Gzip),
            (&["identity;q=0, *"], Coding::Gzip),
            (&["gzip;q=0, *"], Coding::Identity),
            (&["gzip; q=0"], Coding::Identity),
            (&["gzip;Q=0"], Coding::Identity),
            (&["gzip;q=0.000"], Coding::Identity),
            (&["gzip;q=0, gzip"], Coding::Identity),
            (&["gzip;q=0", "x-gzip"], Coding::Identity),
            (&["*;Q=0"], Coding::Identity),
            (&["identity;q=1, *;q=0"], Coding::Identity),
            (&["identity, gzip;q=0.5"], Coding::Identity),
            (&["identity;q=0"], Coding::Identity),
            (&["br"], Coding::Identity),
            (&["gzipped"], Coding::Identity),
            (&[""], Coding::Identity),
            (&[], Coding::Identity),
            // Malformed: gzip is not mentioned.
            (&["gzip;q="], Coding::Identity),
            (&["gzip;q=2"], Coding::Identity),
            (&["gzip;q=1.5"], Coding::Identity),
            (&["gzip;q=0.0005"], Coding::Identity),
            (&["gzip;q=-1"], Coding::Identity),
            (&["gzip;q=inf"], Coding::Identity),
            (&["gzip;q=0.+1"], Coding::Identity),
        ] {
            assert_eq!(coding(&with(header::ACCEPT_ENCODING, values)), expected, "{values:?}");
        }
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
            let known = Known::read(&with(header::IF_NONE_MATCH, values));
            for tag in ["\"5-gzip\"", "W/\"5-gzip\""] {
                assert_eq!(known.has(tag), expected, "{values:?}");
            }
        }
        for values in [&["*"][..], &[" * "], &["\"5\"", "*"]] {
            assert_eq!(Known::read(&with(header::IF_NONE_MATCH, values)), Known::Any);
        }
        let tags = Known::read(&with(header::IF_NONE_MATCH, &["\"*\", *"]));
        assert_eq!(tags, Known::Tags(vec!["\"*\"".to_owned()]));
    }
}

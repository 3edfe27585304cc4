//! The coding of a response's body, by the header `Accept-Encoding`.

use axum::http::{HeaderMap, header};

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
    let texts =
        headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|v| v.to_str().ok());
    for element in texts.flat_map(|text| text.split(',')) {
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
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
            assert_eq!(coding(&with(values)), expected, "{values:?}");
        }
    }
}

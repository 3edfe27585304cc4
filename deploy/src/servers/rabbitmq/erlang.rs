//! Names in Erlang expressions and in URIs.

use std::fmt::Write as _;

/// An Erlang binary with these bytes, whatever they are.
pub(super) fn binary(text: &str) -> String {
    let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
    format!("<<{}>>", bytes.join(","))
}

/// An Erlang list of binaries.
pub(super) fn binaries(texts: &[&str]) -> String {
    let each: Vec<String> = texts.iter().map(|text| binary(text)).collect();
    format!("[{}]", each.join(","))
}

/// A virtual host's name as part of a URI: it may hold a slash, and by default is one.
pub(super) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vhosts_are_encoded_in_uris() {
        assert_eq!(percent_encode("sdb-1.a_b~"), "sdb-1.a_b~");
        assert_eq!(percent_encode("/"), "%2F");
        assert_eq!(percent_encode("a b/ü%"), "a%20b%2F%C3%BC%25");
    }

    #[test]
    fn no_name_can_leave_its_erlang_binary() {
        assert_eq!(binaries(&["a\"", ">"]), "[<<97,34>>,<<62>>]");
        assert_eq!(binaries(&[]), "[]");
    }
}

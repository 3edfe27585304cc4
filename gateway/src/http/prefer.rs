//! Reads the header `Prefer` (RFC 7240, 2).

/// The preferences of one header, each a name in lower case with its value, empty without one. Their
/// parameters are left out. A malformed part ends the list.
pub(crate) fn preferences(header: &[u8]) -> Vec<(String, String)> {
    let mut reader = Reader { rest: header };
    let mut preferences = Vec::new();
    loop {
        while reader.skips(b',') {}
        let Some(preference) = reader.pair() else { return preferences };
        while reader.skips(b';') {
            // There may be none after it.
            let is_none = matches!(reader.rest, [] | [b';' | b',', ..]);
            if !is_none && reader.pair().is_none() {
                return preferences;
            }
        }
        preferences.push(preference);
        if !reader.skips(b',') {
            return preferences;
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    /// Skips white space, and this byte if it is next, with the white space after it.
    fn skips(&mut self, byte: u8) -> bool {
        self.rest = self.rest.trim_ascii_start();
        match self.rest.strip_prefix(&[byte]) {
            Some(rest) => {
                self.rest = rest.trim_ascii_start();
                true
            }
            None => false,
        }
    }

    /// A name with or without a value.
    fn pair(&mut self) -> Option<(String, String)> {
        let name = self.token()?.to_ascii_lowercase();
        let value = if self.skips(b'=') { self.word()? } else { String::new() };
        Some((name, value))
    }

    fn word(&mut self) -> Option<String> {
        if let Some(rest) = self.rest.strip_prefix(b"\"") {
            self.rest = rest;
            return self.quoted();
        }
        self.token()
    }

    fn token(&mut self) -> Option<String> {
        let is_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        let length = self.rest.iter().take_while(|byte| is_token(byte)).count();
        let (token, rest) = self.rest.split_at(length);
        self.rest = rest;
        (length > 0).then(|| String::from_utf8_lossy(token).into_owned())
    }

    /// The rest of a quoted string.
    fn quoted(&mut self) -> Option<String> {
        let mut text = Vec::new();
        loop {
            match self.rest {
                [b'"', rest @ ..] => {
                    self.rest = rest;
                    return Some(String::from_utf8_lossy(&text).into_owned());
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    text.push(*byte);
                    self.rest = rest;
                }
                [] => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn preferences_have_names_and_values() {
        for (header, expected) in [
            (&b""[..], &[][..]),
            (b",, ,", &[]),
            (b"a", &[("a", "")]),
            (b"A=b , c = \"d, e\";f;g=h;;i = \"j;k\",L", &[("a", "b"), ("c", "d, e"), ("l", "")]),
            (b"a=\"\\\"b\\\\\", c", &[("a", "\"b\\"), ("c", "")]),
            (b"a=\"\", b", &[("a", ""), ("b", "")]),
            (b"a;, b; ;c=d;", &[("a", ""), ("b", "")]),
            (b"a, b=\"c", &[("a", "")]),
            (b"a, b;c=\"d", &[("a", "")]),
            (b"a, b=\"c\\", &[("a", "")]),
            (b"a, (b), c", &[("a", "")]),
            (b"a b, c", &[("a", "")]),
            (b"a=, b", &[]),
            (b"a=\"\xff\"", &[("a", "\u{fffd}")]),
        ] {
            let found = preferences(header);
            let found: Vec<_> = found.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            assert_eq!(found, expected, "{}", String::from_utf8_lossy(header));
        }
    }
}

//! Shortens foreign texts that error messages quote.

use std::borrow::Cow;

/// Maximum number of characters of a text that an error message quotes.
pub const MAX_QUOTED_CHARS: usize = 60;

/// The text, or its first `limit` characters and `…` if it is longer.
#[must_use]
pub fn shorten(text: &str, limit: usize) -> Cow<'_, str> {
    match text.char_indices().nth(limit) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        for (text, shown) in [("", ""), ("für", "für"), ("fürs", "für…"), ("€€€€€", "€€€…")]
        {
            assert_eq!(shorten(text, 3), shown);
        }
    }
}

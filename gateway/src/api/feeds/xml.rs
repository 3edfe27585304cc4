//! Text in XML.

/// Without the characters that XML can't have.
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(is_char).collect()
}

/// As a part of an element or an attribute.
pub(super) fn escape(text: &str) -> String {
    html_escape::encode_double_quoted_attribute(&clean(text)).replace('>', "&gt;")
}

const fn is_char(c: &char) -> bool {
    !matches!(c, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}')
}

//! Turns the HTML of incident updates into Markdown: clients of API v2 show Markdown without HTML.

use std::fmt::Write;

/// The begin of a link to an incident in texts of this service and of the Python dashboard.
const LINK: &str = "<a href='/incidents/";

/// An incident update's text. Links to incidents become links to their pages, everything else is plain text.
pub(super) fn from_html(html: &str) -> String {
    let mut markdown = String::with_capacity(html.len() + 16);
    let mut rest = html;
    while let Some((before, after)) = rest.split_once(LINK) {
        let Some((id, title, after)) = link(after) else { break };
        plain(before, &mut markdown);
        markdown.push('[');
        plain(title, &mut markdown);
        // Writing to a string can't fail.
        write!(markdown, "](/Event/{id})").ok();
        rest = after;
    }
    plain(rest, &mut markdown);
    markdown
}

/// The id and the title of a link, and what follows it.
fn link(text: &str) -> Option<(i32, &str, &str)> {
    let (id, text) = text.split_once("'>")?;
    let (title, after) = text.split_once("</a>")?;
    Some((id.parse().ok()?, title, after))
}

/// Adds a text without its HTML escapes, with those of Markdown: any punctuation can be escaped in it.
fn plain(html: &str, markdown: &mut String) {
    let text = html_escape::decode_html_entities(html);
    for character in text.chars() {
        if is_special(character) || is_special_at_begin(character, markdown) {
            markdown.push('\\');
        }
        markdown.push(character);
    }
}

const fn is_special(character: char) -> bool {
    matches!(
        character,
        '\\' | '`'
            | '*'
            | '_'
            | '['
            | ']'
            | '<'
            | '>'
            | '#'
            | '|'
            | '~'
            | '&'
            | '!'
            | '$'
            | ':'
            | '@'
    )
}

/// Begins a list or a heading at the begin of a line, perhaps after a number.
fn is_special_at_begin(character: char, before: &str) -> bool {
    let line = before.rsplit('\n').next().unwrap_or_default();
    match character {
        '-' | '+' | '=' => line.trim().is_empty(),
        '.' | ')' => {
            let number = line.trim();
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_markdown() {
        for (html, expected) in [
            ("DNS (R1, Net) added to Slow", "DNS (R1, Net) added to Slow"),
            (
                "DNS () moved to <a href='/incidents/12'>R&amp;D &lt;b&gt; it&#x27;s [x](y)</a>",
                r"DNS () moved to [R\&D \<b\> it's \[x\](y)](/Event/12)",
            ),
            (
                "<a href='/incidents/1'>a</a>, <a href='/incidents/2'>b</a>.",
                "[a](/Event/1), [b](/Event/2).",
            ),
            ("<a href='/incidents/x'>a</a>", r"\<a href='/incidents/x'\>a\</a\>"),
            ("<a href='/incidents/1'>a", r"\<a href='/incidents/1'\>a"),
            ("<b>*</b> `_` https://x", r"\<b\>\*\</b\> \`\_\` https\://x"),
            ("1. a\n- b\n  + c\n2) d-e 3.", "1\\. a\n\\- b\n  \\+ c\n2\\) d-e 3."),
            ("&amp;lt;", r"\&lt;"),
            ("", ""),
        ] {
            assert_eq!(from_html(html), expected, "{html}");
        }
    }
}

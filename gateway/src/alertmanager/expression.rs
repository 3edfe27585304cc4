//! Go's regular expressions, as those of the `regex` crate.
//!
//! Alertmanager's matchers are expressions of Go's RE2. Both libraries have the same origin, but the crate's
//! classes are those of Unicode, and its sets of characters can be nested. What reads differently there is
//! translated; what the crate does not have, such as a `{` that repeats nothing, is an error.

use std::{iter::Peekable, str::Chars};

use regex::Regex;
use regex_syntax::{
    Parser,
    hir::{Hir, HirKind},
};

/// Compiles an expression that must match the whole of a value.
///
/// # Errors
/// When it is no expression; the text says why.
pub(super) fn compile(go: &str) -> Result<Regex, String> {
    let translated = translate(go);
    // Alone at first: otherwise parentheses that don't match could end the group around it.
    build(&translated)?;
    build(&format!("^(?:{translated})$"))
}

fn build(expression: &str) -> Result<Regex, String> {
    Regex::new(expression).map_err(|error| {
        // Its last line is the reason; the lines before show the place in the translated expression.
        let error = error.to_string();
        let reason = error.lines().last().unwrap_or_default();
        reason.strip_prefix("error: ").unwrap_or(reason).to_owned()
    })
}

/// A named group of an expression.
pub(super) struct NamedGroup {
    /// The values that it can have.
    pub(super) values: Regex,
    /// Whether the expression can match without giving it a value.
    pub(super) is_optional: bool,
}

impl NamedGroup {
    /// The group of that name; none if the expression has no such group.
    pub(super) fn of(go: &str, name: &str) -> Option<Self> {
        let expression = Parser::new().parse(&translate(go)).ok()?;
        let (group, is_optional) = find(&expression, name, false)?;
        let values = build(&format!("^(?:{group})$")).ok()?;
        Some(Self { values, is_optional })
    }
}

/// Searches for a group. `is_optional` says whether the expression can match without this part of it.
fn find<'a>(part: &'a Hir, name: &str, is_optional: bool) -> Option<(&'a Hir, bool)> {
    match part.kind() {
        HirKind::Capture(group) if group.name.as_deref() == Some(name) => {
            let may_be_empty = group.sub.properties().minimum_len() == Some(0);
            Some((&group.sub, is_optional || may_be_empty))
        }
        HirKind::Capture(group) => find(&group.sub, name, is_optional),
        HirKind::Repetition(repeated) => {
            find(&repeated.sub, name, is_optional || repeated.min == 0)
        }
        HirKind::Concat(parts) => parts.iter().find_map(|part| find(part, name, is_optional)),
        HirKind::Alternation(parts) => parts.iter().find_map(|part| find(part, name, true)),
        HirKind::Empty | HirKind::Literal(_) | HirKind::Class(_) | HirKind::Look(_) => None,
    }
}

/// The expression of the `regex` crate that means the same.
fn translate(go: &str) -> String {
    let mut rust = String::with_capacity(go.len());
    let mut rest = go.chars().peekable();
    while let Some(c) = rest.next() {
        match c {
            '\\' => escape(&mut rest, false, &mut rust),
            '[' => set(&mut rest, &mut rust),
            _ => rust.push(c),
        }
    }
    rust
}

/// What follows a backslash. Go's classes have ASCII only.
fn escape(rest: &mut Peekable<Chars<'_>>, in_set: bool, rust: &mut String) {
    let Some(c) = rest.next() else {
        return rust.push('\\');
    };
    match c {
        'd' => rust.push_str("[0-9]"),
        'D' => rust.push_str("[^0-9]"),
        'w' => rust.push_str("[0-9A-Za-z_]"),
        'W' => rust.push_str("[^0-9A-Za-z_]"),
        's' => rust.push_str(r"[\t\n\f\r ]"),
        'S' => rust.push_str(r"[^\t\n\f\r ]"),
        'b' if !in_set => rust.push_str(r"(?-u:\b)"),
        'B' if !in_set => rust.push_str(r"(?-u:\B)"),
        'Q' if !in_set => literal(rest, rust),
        '0'..='7' => octal(c, rest, rust),
        // The crate has meanings of its own for some of them, such as `\<`.
        _ if c.is_ascii_punctuation() => rust.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        _ => rust.extend(['\\', c]),
    }
}

/// A character by up to three octal digits. A single one that is not zero would be a reference to a group,
/// which neither library has.
fn octal(first: char, rest: &mut Peekable<Chars<'_>>, rust: &mut String) {
    let mut digits = String::from(first);
    while digits.len() < 3
        && let Some(digit) = rest.next_if(|c| ('0'..='7').contains(c))
    {
        digits.push(digit);
    }
    match u32::from_str_radix(&digits, 8) {
        Ok(code) if digits.len() > 1 || first == '0' => rust.push_str(&format!("\\x{{{code:x}}}")),
        _ => rust.extend(['\\', first]),
    }
}

/// `\Q`, up to `\E` or the end.
fn literal(rest: &mut Peekable<Chars<'_>>, rust: &mut String) {
    while let Some(c) = rest.next() {
        if c == '\\' && rest.next_if_eq(&'E').is_some() {
            return;
        }
        rust.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }
}

/// A set of characters, after its `[`. In Go's, a `[` is a character like others, unless it begins a class
/// such as `[:alpha:]`, and there are no operators.
fn set(rest: &mut Peekable<Chars<'_>>, rust: &mut String) {
    rust.push('[');
    rust.extend(rest.next_if_eq(&'^'));
    // At its beginning, these are characters.
    if let Some(c) = rest.next_if(|c| [']', '-'].contains(c)) {
        rust.extend(['\\', c]);
    }
    let mut after_hyphen = false;
    while let Some(c) = rest.next() {
        match c {
            ']' => return rust.push(c),
            '\\' => escape(rest, true, rust),
            '[' if rest.peek() == Some(&':') => class(rest, rust),
            '[' | '&' | '~' => rust.extend(['\\', c]),
            '-' if after_hyphen => rust.push_str(r"\-"),
            _ => rust.push(c),
        }
        after_hyphen = c == '-' && !after_hyphen;
    }
}

/// `[:alpha:]`, after its first `[`; a `[` where it is none.
fn class(rest: &mut Peekable<Chars<'_>>, rust: &mut String) {
    let name: String =
        rest.clone().skip(1).take_while(|c| c.is_ascii_alphabetic() || *c == '^').collect();
    let class = format!(":{name}:]");
    if rest.clone().take(class.len()).eq(class.chars()) {
        rest.nth(class.len() - 1);
        rust.push('[');
        rust.push_str(&class);
    } else {
        rust.push_str(r"\[");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An expression, what it matches, and what it doesn't, as Go's `regexp` has it.
    #[test]
    fn expressions_mean_what_they_mean_in_go() {
        for (go, matched, others) in [
            ("otc-(?P<region>.+)", &["otc-eu", "otc-de"][..], &["otc-", "otc", "an otc-eu"][..]),
            ("a|b", &["a", "b"], &["ab", "ac"]),
            (r"\d+", &["12"], &["١٢", ""]),
            (r"\D", &["١", "a"], &["1"]),
            (r"\w+", &["a_1"], &["ü", "a-1"]),
            (r"\W", &["ü", "-"], &["a"]),
            (r"a\sb", &["a b", "a\tb"], &["a\u{a0}b", "a\u{b}b"]),
            (r"[\d.]+", &["1.5"], &["١"]),
            (r"[^\w]", &["ü"], &["w"]),
            (r"a\b.*", &["a b", "aü"], &["ab"]),
            (r"a\B.", &["ab"], &["a-"]),
            (r"\<b\>", &["<b>"], &["b"]),
            (r"\Qa.b|\E.", &["a.b|c"], &["axb|c", "a.b"]),
            (r"\Qa.b", &["a.b"], &["axb"]),
            (r"[]a]", &["]", "a"], &["b"]),
            (r"[^]a]", &["b"], &["]", "a"]),
            (r"[[a]", &["[", "a"], &["b"]),
            (r"[a&&b]", &["a", "b", "&"], &["c"]),
            (r"[a~~b]", &["a", "b", "~"], &["c"]),
            (r"[--/]", &["-", ".", "/"], &["0"]),
            (r"[+--]", &["+", ",", "-"], &["."]),
            (r"[a-]", &["a", "-"], &["b"]),
            (r"[[:alpha:]-]", &["x", "-"], &["ü", "1"]),
            (r"[[:^alpha:]]", &["ü", "1"], &["x"]),
            (r"[[:a]", &["[", ":", "a"], &["l"]),
            (r"\101\08[\060]", &["A\08\u{30}"], &["1"]),
            (r"\x41\x{42}", &["AB"], &["x41"]),
            (r"\pL+", &["aü"], &["1"]),
            ("(?i)dns", &["DNS"], &["DN"]),
            ("(?<name>x)", &["x"], &["y"]),
            ("a.b", &["a-b"], &["a\nb"]),
            ("", &[""], &["a"]),
        ] {
            let expression = compile(go).expect(go);
            for value in matched {
                assert!(expression.is_match(value), "{go} does not match {value:?}");
            }
            for value in others {
                assert!(!expression.is_match(value), "{go} matches {value:?}");
            }
        }
    }

    /// An expression, values that its group `g` can have, others, and whether it can have none.
    #[test]
    fn groups_have_the_values_of_their_part() {
        for (go, values, others, is_optional) in [
            ("otc-(?P<g>.+)", &["eu", "eu-de"][..], &[""][..], false),
            ("(?i)otc-(?P<g>eu|us)", &["EU", "us"], &["ap", "otc-eu"], false),
            (r"(a(?P<g>\d))?", &["1"], &["a1", "x", "١"], true),
            ("(?P<g>a)|b", &["a"], &["b"], true),
            ("x(?P<g>a*)", &["", "aa"], &["x"], true),
            ("(?P<h>a)(?P<g>[b&])", &["b", "&"], &["a"], false),
        ] {
            let group = NamedGroup::of(go, "g").expect(go);
            assert!(values.iter().all(|value| group.values.is_match(value)), "{go}");
            assert!(!others.iter().any(|value| group.values.is_match(value)), "{go}");
            assert_eq!(group.is_optional, is_optional, "{go}");
        }
        assert!(NamedGroup::of("(?P<g>a)", "other").is_none());
    }

    #[test]
    fn what_is_no_expression_says_why() {
        for (go, says) in [
            ("(", "unclosed group"),
            ("a)(b", "unopened group"),
            ("[a", "unclosed character class"),
            ("a{,2}", "repetition quantifier"),
            (r"\", "incomplete escape sequence"),
            (r"(?=a)", "look-around"),
            (r"(a)\1", "backreferences are not supported"),
            ("a{100000}{100000}", "exceeds size limit"),
        ] {
            let error = compile(go).expect_err(go);
            assert!(error.contains(says), "{go}: {error}");
            assert!(!error.contains('\n'), "{go}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_compiled_or_refused(text in r"[\[\]\\:QEdwb^&~()a-]{0,12}|.{0,12}") {
            compile(&text).ok();
        }

        /// Of a literal, each expression of it is that literal.
        #[test]
        fn a_quoted_text_matches_itself(text in "[^\\\\]{0,12}") {
            let quoted = compile(&format!("\\Q{text}\\E")).expect("it is quoted");
            prop_assert!(quoted.is_match(&text));
        }
    }
}

//! Pieces of HTML that are safe by themselves.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fmt::{self, Display, Formatter, Write},
    sync::LazyLock,
};

use ammonia::{Builder, UrlRelative};
use askama::filters::HtmlSafe;
use shared::domain::timestamp::Timestamp;

use super::level::Level;

/// The path of links to incidents in the texts of updates.
const INCIDENTS: &str = "/incidents/";

/// A time: UTC to the minute, which the script may show in the reader's zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Display for Time {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = self.0.to_the_minute();
        // HTML has no years of more than four digits, and none before 1.
        match text.split_once(' ').filter(|(date, _)| date.len() == 10 && !text.starts_with('0')) {
            Some((date, time)) => {
                write!(f, "<time datetime=\"{date}T{time}Z\">{text} UTC</time>")
            }
            None => write!(f, "<span>{text} UTC</span>"),
        }
    }
}

impl HtmlSafe for Time {}

/// A shape for a state. The word is beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Icon(pub(crate) Level);

impl Display for Icon {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let class = self.0.class();
        write!(f, "<svg class=\"icon {class}\" aria-hidden=\"true\"><use href=\"#{class}\"/></svg>")
    }
}

impl HtmlSafe for Icon {}

/// The days of a component as a picture: the worse the day, the higher its column.
pub(crate) struct Days<'a> {
    /// Which days they are, in words.
    pub(crate) caption: String,
    /// The worst impact of each; none if nothing was reported.
    pub(crate) days: Cow<'a, [Option<i16>]>,
}

impl Days<'_> {
    fn words(&self) -> String {
        let mut words = String::new();
        for level in Level::ALL {
            let is_level = |day: &&Option<i16>| day.map(Level::of) == Some(level);
            let count = self.days.iter().filter(is_level).count();
            if count > 0 {
                let comma = if words.is_empty() { "" } else { ", " };
                let days = if count == 1 { "day" } else { "days" };
                // Writing to a string can't fail.
                write!(words, "{comma}{} on {count} {days}", level.word()).ok();
            }
        }
        if words.is_empty() { "nothing".to_owned() } else { words }
    }
}

impl Display for Days<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.days.len();
        write!(
            f,
            "<svg class=\"days\" role=\"img\" viewBox=\"0 0 {count} 8\" preserveAspectRatio=\"none\" \
            aria-label=\"{}: {}\"><path class=\"operational\" d=\"M0 5h{count}v3h-{count}z\"/>",
            self.caption,
            self.words()
        )?;
        for (level, height) in
            [(Level::Maintenance, 3), (Level::Minor, 4), (Level::Major, 6), (Level::Outage, 8)]
        {
            let is_level = |(_, day): &(usize, &Option<i16>)| day.map(Level::of) == Some(level);
            let mut days = self.days.iter().enumerate().filter(is_level).peekable();
            if days.peek().is_none() {
                continue;
            }
            write!(f, "<path class=\"{}\" d=\"", level.class())?;
            for (day, _) in days {
                write!(f, "M{day} {}h1v{height}h-1z", 8 - height)?;
            }
            f.write_str("\"/>")?;
        }
        write!(f, "<use href=\"#grid{count}\"/></svg>")
    }
}

impl HtmlSafe for Days<'_> {}

/// The lines between the days of pictures with that many, once for a page.
pub(crate) struct Grid(pub(crate) usize);

impl Display for Grid {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let count = self.0;
        write!(f, "<path id=\"grid{count}\" class=\"grid\" d=\"")?;
        (1..count).try_for_each(|day| write!(f, "M{day} 0v8"))?;
        f.write_str("\"/>")
    }
}

impl HtmlSafe for Grid {}

/// The text of an update, as HTML with its links only.
#[derive(Debug)]
pub(crate) struct Text(String);

static LINKS_ONLY: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    builder
        .tags(HashSet::from(["a"]))
        .tag_attributes(HashMap::from([("a", HashSet::from(["href"]))]))
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::PassThrough)
        .link_rel(Some("nofollow noopener noreferrer"));
    builder
});

impl Text {
    /// `base` is the path below which the pages are, with slashes around it.
    pub(crate) fn new(html: &str, base: &str) -> Self {
        let mut text = if html.contains(['<', '&', '>']) {
            // An escape may be such a mark, too.
            contained(&LINKS_ONLY.clean(html).to_string())
        } else {
            contained(html)
        };
        if base != "/" {
            let (from, to) = (format!("href=\"{INCIDENTS}"), format!("href=\"{base}incidents/"));
            text = text.replace(&from, &to);
        }
        Self(text)
    }
}

impl Display for Text {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl HtmlSafe for Text {}

/// The text of an update without its markup.
pub(crate) fn without_markup(html: &str) -> String {
    if !html.contains(['<', '&', '>']) {
        return html.to_owned();
    }
    let text = Builder::empty().clean(html).to_string();
    html_escape::decode_html_entities(&text).into_owned()
}

/// A text for places that have no markup, such as titles of windows: without marks that change the direction of what
/// follows. White space is a space.
pub(crate) fn plain(text: &str) -> String {
    let spaced = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c });
    spaced.filter(|c| !is_mark(*c)).collect()
}

/// A text for an element of its own, such as `bdi`. One of these marks without its end would reach beyond the element
/// (Unicode Standard Annex #9, BD9).
pub(crate) fn contained(text: &str) -> String {
    text.chars().filter(|c| !begins_or_ends_direction(*c)).collect()
}

const fn begins_or_ends_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Marks of direction, and control characters.
const fn is_mark(c: char) -> bool {
    begins_or_ends_direction(c)
        || c.is_ascii_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}')
}

/// A duration in words, to the minute.
pub(crate) fn duration(from: Timestamp, to: Timestamp) -> String {
    let minutes = (to.as_micros() - from.as_micros()).max(0) / 60_000_000;
    let (days, hours, minutes) = (minutes / 1_440, minutes / 60 % 24, minutes % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => "less than a minute".to_owned(),
        (0, 0, minutes) => format!("{minutes} min"),
        (0, hours, 0) => format!("{hours} h"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, 0, _) => format!("{days} d"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn texts_have_their_links_and_nothing_else() {
        for (html, expected) in [
            ("DNS () added", "DNS () added"),
            (
                "moved to <a href='/incidents/12'>R&amp;D &lt;b&gt;</a>",
                "moved to <a href=\"/incidents/12\" rel=\"nofollow noopener noreferrer\">R&amp;D &lt;b&gt;</a>",
            ),
            ("<script>alert(1)</script>x", "x"),
            ("<img src=x onerror=alert(1)>x", "x"),
            ("<b onclick=a()>x</b>", "x"),
            (
                "<a href=javascript:alert(1) onclick=b() style='c'>x</a>",
                "<a rel=\"nofollow noopener noreferrer\">x</a>",
            ),
            ("</main><iframe src=//x></iframe>y", "y"),
            ("a & b > c", "a &amp; b &gt; c"),
            ("&lt;script&gt;", "&lt;script&gt;"),
            ("<a href='x", ""),
        ] {
            assert_eq!(Text::new(html, "/").to_string(), expected, "{html}");
        }
        let moved = Text::new("<a href='/incidents/1'>a</a> <a href='/x'>b</a>", "/status/");
        assert!(moved.to_string().contains("\"/status/incidents/1\""), "{moved}");
        assert!(moved.to_string().contains("\"/x\""), "{moved}");
    }

    #[test]
    fn times_are_machine_readable_where_html_has_them() {
        assert_eq!(
            Time(at("2026-11-27 09:50")).to_string(),
            "<time datetime=\"2026-11-27T09:50Z\">2026-11-27 09:50 UTC</time>"
        );
        let never = Timestamp::from_exact_text("-infinity").unwrap();
        assert_eq!(Time(never).to_string(), "<span>-9999-01-01 00:00 UTC</span>");
    }

    #[test]
    fn the_days_are_said_in_words_too() {
        let of = |days: &[_]| {
            Days { caption: "2026-11".to_owned(), days: Cow::Borrowed(days) }.to_string()
        };
        let days = of(&[None, Some(3), Some(3), Some(1), None]);
        assert!(days.contains("\"2026-11: Outage on 2 days, Minor problem on 1 day\""));
        assert!(days.contains("d=\"M1 0h1v8h-1zM2 0h1v8h-1z\""), "{days}");
        assert!(of(&[None]).contains("\"2026-11: nothing\""));
    }

    #[test]
    fn durations_are_short() {
        for (end, expected) in [
            ("09:50", "less than a minute"),
            ("09:51", "1 min"),
            ("10:50", "1 h"),
            ("12:00", "2 h 10 min"),
        ] {
            let end = at(&format!("2026-11-27 {end}"));
            assert_eq!(duration(at("2026-11-27 09:50"), end), expected);
        }
        assert_eq!(duration(at("2026-11-20 09:50"), at("2026-11-27 12:50")), "7 d 3 h");
        assert_eq!(duration(at("2026-11-27 09:50"), at("2026-11-20 12:50")), "less than a minute");
    }

    #[test]
    fn titles_can_not_turn_what_follows() {
        assert_eq!(plain("a\u{202e}b\u{2066}\nc\u{200f}"), "ab c");
        assert_eq!(contained("a\u{202e}b\u{2066}\u{200f}"), "ab\u{200f}");
        assert_eq!(Text::new("a &#x202e;b\u{2068}", "/").to_string(), "a b");
    }
}

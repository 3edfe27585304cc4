//! A feed as RSS 2.0, with the contents of the Python dashboard's.

use shared::domain::{impact::Impact, timestamp::Timestamp};
use time::{OffsetDateTime, format_description::well_known::Rfc2822};

use super::xml::escape;
use crate::{
    store::incidents::Incident,
    view::html::{Text, contained},
};

/// The last words of every item.
const APOLOGY: &str =
    "We apologize for the inconvenience and will share an update once we have more information.";

/// What comes after the items of a feed.
pub(super) const END: &str = "</channel></rss>\n";

/// A feed; `root` is the address of the service, with a slash at its end.
pub(super) struct Feed<'a> {
    pub(super) root: &'a str,
    /// Its own address, below `root`.
    pub(super) path: &'a str,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
}

impl Feed<'_> {
    /// What comes before its items.
    pub(super) fn begin(&self) -> String {
        let own = escape(&format!("{}{}", self.root, self.path));
        format!(
            "<?xml version='1.0' encoding='UTF-8'?>\n\
            <rss version=\"2.0\" xmlns:atom=\"http://www.w3.org/2005/Atom\"><channel>\
            <title>{}</title><link>{own}</link>\
            <atom:link href=\"{own}\" rel=\"self\"/><description>{}</description>",
            escape(self.title),
            escape(self.description),
        )
    }

    /// An item.
    pub(super) fn item(&self, incident: &Incident) -> String {
        format!(
            "<item><title>{}</title><link>{}</link><description>{}</description>\
            <guid isPermaLink=\"false\">status-dashboard-incident-{}</guid>\
            <pubDate>{}</pubDate></item>",
            escape(&incident.text),
            escape(&format!("{}incidents/{}", self.root, incident.id)),
            escape(&content(incident, self.root)),
            incident.id,
            // The oldest update: a date that stays.
            rfc2822(*incident.update_times.last().unwrap_or(&incident.start_date)),
        )
    }
}

/// The timeline, the impact and the times of an incident, as HTML.
fn content(incident: &Incident, root: &str) -> String {
    let mut lines = Vec::new();
    for (status, text, time) in incident.updates() {
        let time = time.to_the_minute();
        let text = Text::new(text, root);
        let status = html_escape::encode_text(status);
        let status = contained(&status);
        lines.push(format!("<small>{time} UTC</small><br><strong>{status} - </strong>{text}"));
        lines.push("<br>".to_owned());
    }
    let impact = Impact::try_from(incident.impact).map_or("unknown", Impact::word);
    lines.push(format!("Incident impact: {impact}"));
    lines.push(format!("Incident has started on: {} UTC", incident.start_date.to_the_minute()));
    if let Some(end) = incident.end_date {
        lines.push(format!("Incident end date: {} UTC", end.to_the_minute()));
    }
    lines.push("<br>".to_owned());
    lines.push(APOLOGY.to_owned());
    lines.join("<br>")
}

/// A date as RSS has it, which knows the years 1900 to 9999.
fn rfc2822(time: Timestamp) -> String {
    const FIRST: i64 = -2_208_988_800;
    let seconds = time.as_micros().div_euclid(1_000_000).max(FIRST);
    let time = OffsetDateTime::from_unix_timestamp(seconds).ok();
    time.and_then(|time| time.format(&Rfc2822).ok()).unwrap_or_default()
}

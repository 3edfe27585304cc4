//! Reports as their text says: which stand, which ends are remembered, and which updates come too late.

use shared::domain::{
    component::ComponentId, condition::Condition, outcome::Reason, timestamp::Timestamp,
};

use super::{Post, World};

const A_DAY: i64 = 86_400_000_000;
const A_MINUTE: i64 = 60_000_000;

/// What is known of a report.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Whether its source has not taken it back.
    pub stands: bool,
    /// When it was said first, since it was last taken back.
    pub first: Timestamp,
    /// When it was said last, or taken back.
    pub last: Timestamp,
    /// How long it is valid, in seconds, as it was said last.
    pub ttl: Option<i64>,
    /// The newest start that its source gave.
    pub start: Option<Timestamp>,
    /// When it was last taken back.
    pub ended: Option<Timestamp>,
    /// The newest end that its source gave.
    pub end: Option<Timestamp>,
}

impl Standing {
    /// Forgets what is older than a day; none if nothing is left.
    #[must_use]
    pub fn remembered(mut self, now: Timestamp) -> Option<Self> {
        let is_old = self.ended.is_none_or(|ended| now.as_micros() - ended.as_micros() >= A_DAY);
        if is_old {
            self.ended = None;
            self.end = None;
        }
        (self.stands || !is_old).then_some(self)
    }
}

/// Whether the update would make the 1,001st report of its component: it is rejected, and changes nothing.
#[must_use]
pub fn is_one_report_too_many(world: &World, post: &Post) -> bool {
    let Some(known) = known(world, post) else { return false };
    let is_new = post.condition != Condition::Ok && known.is_none_or(|known| !known.stands);
    is_new
        && too_late(world, post).is_none()
        && world.reports.iter().filter(|((of, ..), r)| *of == post.component && r.stands).count()
            >= 1_000
}

/// Whether any report of a component stands.
pub(super) fn any_stands(world: &World, component: ComponentId) -> bool {
    world.reports.iter().any(|((of, ..), report)| *of == component && report.stands)
}

/// Whether it is remembered that the update's report has ended.
pub(super) fn is_over(world: &World, post: &Post) -> bool {
    known(world, post).flatten().is_some_and(|known| !known.stands)
}

/// A time that its sender gave; none if it is more than a minute in the future, where no clock may be.
fn trusted(time: Option<Timestamp>, post: &Post) -> Option<Timestamp> {
    time.filter(|time| time.as_micros() - post.at.as_micros() <= A_MINUTE)
}

/// Notes what an update says; or says why it comes too late, and is not noted.
pub(super) fn take_note(world: &mut World, post: &Post) -> Option<Reason> {
    let known = known(world, post)?;
    let late = too_late(world, post);
    if late.is_some() {
        return late;
    }
    let report = post.report.as_ref()?;
    let now = post.at;
    let entry = (post.component, report.source.clone(), report.key.clone());
    let mut standing = known.clone().unwrap_or(Standing {
        stands: false,
        first: now,
        last: now,
        ttl: None,
        start: None,
        ended: None,
        end: None,
    });
    if post.condition == Condition::Ok {
        let end = trusted(report.ends_at, post);
        let is_news = end.is_some() && end > standing.end;
        if !standing.stands && !is_news {
            return None;
        }
        standing.stands = false;
        standing.ended = Some(now);
        standing.end = standing.end.max(end);
    } else {
        if !standing.stands {
            standing.first = now;
        }
        standing.stands = true;
        standing.ttl = report.ttl.map(i64::from);
        standing.start = standing.start.max(trusted(report.starts_at, post));
    }
    standing.last = now;
    world.reports.insert(entry, standing);
    None
}

fn too_late(world: &World, post: &Post) -> Option<Reason> {
    let report = post.report.as_ref()?;
    let known = known(world, post)??;
    if post.condition == Condition::Ok {
        let (end, start) = (trusted(report.ends_at, post)?, known.start?);
        return (end < start).then_some(Reason::EndedBeforeKnownStart);
    }
    let (start, end) = (trusted(report.starts_at, post)?, known.end?);
    // Two minutes after it was taken back, what its source says again is no late copy.
    let is_fresh =
        known.ended.is_some_and(|ended| post.at.as_micros() - ended.as_micros() < 2 * A_MINUTE);
    (is_fresh && start <= end).then_some(Reason::BeganBeforeKnownEnd)
}

/// What is known of the report of an update; none if it has no report.
fn known(world: &World, post: &Post) -> Option<Option<Standing>> {
    let report = post.report.as_ref()?;
    let entry = (post.component, report.source.clone(), report.key.clone());
    Some(world.reports.get(&entry).and_then(|known| known.clone().remembered(post.at)))
}

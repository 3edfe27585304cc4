//! When components were affected, derived from what became of incidents and relations, row by row: a second
//! implementation of what the triggers record in `sdb_affected`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use shared::domain::{component::ComponentId, incident::IncidentId, timestamp::Timestamp};

/// An incident, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its start.
    pub start: Timestamp,
    /// Its end, possibly to come.
    pub end: Option<Timestamp>,
    /// Its impact; others may have written any number.
    pub impact: i16,
}

/// What became of a row.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// An incident was inserted.
    Inserted(IncidentId, Span),
    /// An incident was updated.
    Updated(IncidentId, Span),
    /// An incident was deleted.
    Deleted(IncidentId),
    /// A component was added to an incident.
    Joined(IncidentId, ComponentId),
    /// A component was removed from an incident.
    Left(IncidentId, ComponentId),
    /// The incidents or the relations were emptied.
    Emptied,
}

/// An interval: its impact and its end.
pub type Interval = (i16, Option<Timestamp>);

/// The intervals by incident, component and begin.
pub type Intervals = BTreeMap<(IncidentId, ComponentId, Timestamp), Interval>;

/// What has been told so far.
#[derive(Clone, Debug, Default)]
pub struct Telling {
    incidents: BTreeMap<IncidentId, Span>,
    relations: BTreeSet<(IncidentId, ComponentId)>,
    intervals: Intervals,
    /// Each incident with the transaction that inserted it.
    inserted_by: BTreeMap<IncidentId, u64>,
}

impl Telling {
    /// Begins with what there was.
    #[must_use]
    pub fn new(
        incidents: BTreeMap<IncidentId, Span>,
        relations: BTreeSet<(IncidentId, ComponentId)>,
        intervals: Intervals,
    ) -> Self {
        Self { incidents, relations, intervals, inserted_by: BTreeMap::new() }
    }

    /// The intervals.
    #[must_use]
    pub const fn intervals(&self) -> &Intervals {
        &self.intervals
    }

    /// Something that a statement of a transaction did at some time.
    pub fn tell(&mut self, event: Event, now: Timestamp, transaction: u64) {
        match event {
            Event::Inserted(id, span) => {
                self.incidents.insert(id, span);
                self.inserted_by.insert(id, transaction);
            }
            Event::Updated(id, new) => self.update(id, new, now),
            Event::Deleted(id) => {
                self.incidents.remove(&id);
                self.intervals.retain(|(incident, _, _), _| *incident != id);
            }
            Event::Joined(id, component) => self.join(id, component, now, transaction),
            Event::Left(id, component) => {
                self.relations.remove(&(id, component));
                for ((incident, of, began), (_, ended)) in &mut self.intervals {
                    let goes_on = ended.is_none_or(|ended| ended > now);
                    if (*incident, *of) == (id, component) && goes_on {
                        *ended = Some(now.max(*began));
                    }
                }
            }
            Event::Emptied => self.intervals.clear(),
        }
    }

    fn join(&mut self, id: IncidentId, component: ComponentId, now: Timestamp, transaction: u64) {
        self.relations.insert((id, component));
        let Some(Span { start, end, impact }) = self.incidents.get(&id).copied() else { return };
        let began = if self.inserted_by.get(&id) == Some(&transaction) {
            start
        } else {
            start.max(end.map_or(now, |end| end.min(now)))
        };
        self.intervals.insert((id, component, began), (impact, end.map(|end| end.max(began))));
    }

    fn update(&mut self, id: IncidentId, new: Span, now: Timestamp) {
        let Some(old) = self.incidents.insert(id, new) else { return };
        let components: BTreeSet<ComponentId> = self
            .intervals
            .keys()
            .filter(|(incident, _, _)| *incident == id)
            .map(|(_, component, _)| *component)
            .chain(self.relations.iter().filter(|(i, _)| *i == id).map(|(_, c)| *c))
            .collect();
        for component in components {
            let is_in = self.relations.contains(&(id, component));
            let mut own: BTreeMap<Timestamp, Interval> = self
                .intervals
                .iter()
                .filter(|((incident, of, _), _)| (*incident, *of) == (id, component))
                .map(|((_, _, began), interval)| (*began, *interval))
                .collect();
            self.intervals.retain(|(i, c, _), _| (*i, *c) != (id, component));
            if old.start != new.start {
                move_start(&mut own, old, new, is_in);
            }
            if old.impact != new.impact {
                change_impact(&mut own, old, new, is_in, now);
            }
            if old.end != new.end {
                move_end(&mut own, old, new, is_in, now);
            }
            self.intervals.extend(own.into_iter().map(|(began, i)| ((id, component, began), i)));
        }
    }
}

/// How an interval ends.
#[derive(Clone, Copy)]
enum Ending {
    /// With its incident.
    Incident,
    /// Its component left before the start: it was never affected.
    NeverAffected,
    /// At a time of its own.
    At(Timestamp),
}

/// What left has an end of its own, also if it left after the incident's end. An empty interval is that of an incident
/// that ended before its start, by mistake, or of a component that left before the start; only the latter is not in
/// the incident any more.
fn ending(
    began: Timestamp,
    ended: Option<Timestamp>,
    end: Option<Timestamp>,
    is_in: bool,
) -> Ending {
    match ended {
        None => Ending::Incident,
        Some(ended) if ended == began => match end {
            Some(end) if end <= began && is_in => Ending::Incident,
            _ => Ending::NeverAffected,
        },
        Some(ended) if end == Some(ended) && is_in => Ending::Incident,
        Some(ended) => Ending::At(ended),
    }
}

/// Intervals that began with their incident follow its start, and none begins before it. How they end stays as it is.
/// Of several that would begin together, the last one stays.
fn move_start(own: &mut BTreeMap<Timestamp, Interval>, old: Span, new: Span, is_in: bool) {
    let mut last: Option<Interval> = None;
    let moved: Vec<Timestamp> =
        own.keys().copied().filter(|began| *began == old.start || *began < new.start).collect();
    for began in moved {
        let Some((impact, ended)) = own.remove(&began) else { continue };
        let ended = match ending(began, ended, old.end, is_in) {
            Ending::Incident => old.end.map(|end| end.max(new.start)),
            Ending::NeverAffected => Some(new.start),
            Ending::At(time) => Some(time.max(new.start)),
        };
        // One without an end is the last.
        let is_later = |(_, other): Interval| match (ended, other) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ended), Some(other)) => ended >= other,
        };
        if last.is_none_or(is_later) {
            last = Some((impact, ended));
        }
    }
    let Some((impact, ended)) = last else { return };
    own.entry(new.start)
        .and_modify(|(_, there)| *there = there.zip(ended).map(|(a, b)| a.max(b)))
        .or_insert((impact, ended));
}

fn change_impact(
    own: &mut BTreeMap<Timestamp, Interval>,
    old: Span,
    new: Span,
    is_in: bool,
    now: Timestamp,
) {
    if old.end.is_some_and(|end| end <= now) {
        if new.end.is_some() {
            own.values_mut().filter(|(i, _)| *i == old.impact).for_each(|(i, _)| *i = new.impact);
        }
        return;
    }
    let change = new.end.map_or(now, |end| end.min(now));
    let mut continues = false;
    for (began, (impact, ended)) in &mut *own {
        if matches!(ending(*began, *ended, old.end, is_in), Ending::Incident) {
            if *began < change {
                *ended = Some(change);
                continues = true;
            } else {
                *impact = new.impact;
            }
        }
    }
    if continues {
        own.insert(change, (new.impact, new.end));
    }
}

fn move_end(
    own: &mut BTreeMap<Timestamp, Interval>,
    old: Span,
    new: Span,
    is_in: bool,
    now: Timestamp,
) {
    if new.end.is_none() && old.end.is_some_and(|end| end <= now) {
        if is_in {
            own.insert(now.max(new.start), (new.impact, None));
        }
        return;
    }
    // Of several, those before the last one end where the next one begins.
    let begins: Vec<Timestamp> = own.keys().copied().collect();
    let next = begins.iter().skip(1).copied().map(Some).chain([None]);
    for ((began, (_, ended)), next) in own.iter_mut().zip(next) {
        let end = new.end.map(|end| end.max(*began));
        let follows = matches!(ending(*began, *ended, old.end, is_in), Ending::Incident);
        let latest = if follows { next } else { *ended };
        // Nothing goes on after the incident.
        *ended = match (end, latest) {
            (Some(end), Some(latest)) => Some(end.min(latest)),
            (end, latest) => end.or(latest),
        };
    }
}

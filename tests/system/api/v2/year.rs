//! A year in which components join incidents, move and leave: state by state, and as the intervals that the record of
//! affected components has then.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};
use model::affected::{Event, Span, Telling};
use proptest::{
    collection::vec,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use shared::domain::{component::ComponentId, incident::IncidentId, timestamp::Timestamp};

const MINUTE: i64 = 60_000_000;
/// Steps, of up to 15 hours each.
const STEPS: usize = 1_100;
const LONGEST: i64 = 900;
/// An outage.
const OUTAGE: i16 = 3;

/// Begin and end of an outage in microseconds since 1970; the end is none while it goes on.
pub(super) type Outage = (i64, Option<i64>);

/// What is drawn for a step: minutes until it, what happens, and to which of those that there are.
type Drawn = (i64, u8, usize, usize);

/// An incident that goes on.
struct Going {
    id: IncidentId,
    span: Span,
    components: BTreeSet<ComponentId>,
}

/// What happened.
#[derive(Default)]
pub(super) struct Year {
    pub(super) telling: Telling,
    /// Of each component.
    pub(super) outages: BTreeMap<ComponentId, Vec<Outage>>,
    pub(super) moves: usize,
    going: Vec<Going>,
    incidents: i32,
}

impl Year {
    /// So many components until now.
    pub(super) fn new(components: i32, now: Timestamp) -> Result<Self> {
        let steps = vec((1..=LONGEST, 0..12_u8, 0..1_000_usize, 0..1_000_usize), STEPS)
            .new_tree(&mut TestRunner::deterministic())
            .map_err(|reason| anyhow!("{reason}"))?
            .current();
        let mut year = Self::default();
        let length: i64 = steps.iter().map(|step| step.0).sum();
        let mut at = now.as_micros() / MINUTE * MINUTE - (length + 1) * MINUTE;
        for (number, step) in steps.iter().enumerate() {
            let from = at;
            at += step.0 * MINUTE;
            year.pass(components, from, Some(at));
            year.take(components, step, Timestamp::from_micros(at)?, number as u64);
        }
        year.pass(components, at, None);
        Ok(year)
    }

    /// Time passes, in which nothing changes.
    fn pass(&mut self, components: i32, from: i64, to: Option<i64>) {
        for component in (1..=components).map(ComponentId) {
            let is_out = |going: &Going| {
                going.span.impact >= OUTAGE && going.components.contains(&component)
            };
            if self.going.iter().any(is_out) {
                self.outages.entry(component).or_default().push((from, to));
            }
        }
    }

    fn take(&mut self, components: i32, step: &Drawn, at: Timestamp, transaction: u64) {
        let (_, what, one, other) = *step;
        let count = self.going.len();
        let component = ComponentId((other as i32) % components + 1);
        match what {
            0..=2 if count < 4 => self.open(component, one as i16 % 4, at, transaction),
            3 | 4 if count > 0 => self.join(one % count, component, at, transaction),
            5..=7 if count > 1 => self.change_incident(one, other, at, transaction),
            8 if count > 0 => drop(self.leave(one % count, other, at, transaction)),
            9 if count > 0 => {
                let going = &mut self.going[one % count];
                going.span.impact = other as i16 % 4;
                self.telling.tell(Event::Updated(going.id, going.span), at, transaction);
            }
            // The last one goes on until now.
            10 | 11 if count > 1 => {
                let Going { id, span, .. } = self.going.remove(one % count);
                let span = Span { end: Some(at), ..span };
                self.telling.tell(Event::Updated(id, span), at, transaction);
            }
            _ => {}
        }
    }

    fn open(&mut self, component: ComponentId, impact: i16, at: Timestamp, transaction: u64) {
        self.incidents += 1;
        let id = IncidentId(self.incidents);
        let span = Span { start: at, end: None, impact };
        self.telling.tell(Event::Inserted(id, span), at, transaction);
        self.going.push(Going { id, span, components: BTreeSet::new() });
        self.join(self.going.len() - 1, component, at, transaction);
    }

    fn join(&mut self, place: usize, component: ComponentId, at: Timestamp, transaction: u64) {
        let going = &mut self.going[place];
        if going.components.insert(component) {
            self.telling.tell(Event::Joined(going.id, component), at, transaction);
        }
    }

    /// One of its components leaves an incident.
    fn leave(
        &mut self,
        place: usize,
        which: usize,
        at: Timestamp,
        transaction: u64,
    ) -> Option<ComponentId> {
        let going = &mut self.going[place];
        let component = *going.components.iter().nth(which % going.components.len().max(1))?;
        going.components.remove(&component);
        self.telling.tell(Event::Left(going.id, component), at, transaction);
        Some(component)
    }

    /// One of the components of an incident moves to the next one.
    fn change_incident(&mut self, one: usize, other: usize, at: Timestamp, transaction: u64) {
        let count = self.going.len();
        if let Some(component) = self.leave(one % count, other, at, transaction) {
            self.join((one + 1) % count, component, at, transaction);
            self.moves += 1;
        }
    }
}

//! Properties of every history of updates and edits by others, however the updates are batched. Histories
//! are generated; proptest keeps a failing one in `proptest-regressions/`.

mod generators;
mod recovery;

use model::{Answer, Incident, Post, World};
use proptest::{prelude::*, sample::Index, test_runner::TestCaseResult};
use shared::{
    domain::{
        component::ComponentId,
        condition::Condition,
        impact::Impact,
        incident::IncidentId,
        outcome::{Outcome, Reason},
        timestamp::Timestamp,
    },
    wire::message::Report,
};

use self::generators::{Origin, cuts, histories};
use super::{at, world::apply_batch};

/// Components 1 to 5 get updates; 6 is only in incidents.
const COMPONENTS: i32 = 6;
const UPDATED: i32 = 5;
const A_DAY: i64 = 86_400_000_000;
/// Length of the longest history. Times are so close that maintenances start and end among its updates.
const STEPS: usize = 40;
const TITLES: [&str; 3] = ["Incident", "it's <down>", "R&D \"lab\" unreachable"];

/// The initial state, and the steps.
#[derive(Clone, Debug)]
struct History {
    world: World,
    steps: Vec<Step>,
}

#[derive(Clone, Debug)]
enum Step {
    /// A status update, with the microseconds since the previous step.
    Update {
        component: ComponentId,
        condition: Condition,
        report: Option<Report>,
        title: &'static str,
        gap: i64,
    },
    /// Someone else writes between two batches.
    Edit(Edit),
}

/// Edits by operators, on the Python dashboard's pages or in the database.
#[derive(Clone, Debug)]
enum Edit {
    /// An open incident or maintenance ends.
    Close(Index),
    /// A system incident becomes a manual one.
    TakeOver(Index),
    /// A component is removed from an incident.
    Separate(Index, Index),
    /// A manual incident that has ended is reopened.
    Reopen(Index),
    /// A maintenance or a manual incident is added.
    Add(Incident),
}

/// How the updates between two edits are batched.
enum Batches<'a> {
    OneEach,
    /// A batch ends after the updates for which this is true.
    CutAt(&'a [bool]),
    AsLargeAsCanBe,
}

impl Batches<'_> {
    fn end_after(&self, update: usize) -> bool {
        match self {
            Self::OneEach => true,
            Self::CutAt(cuts) => cuts[update],
            Self::AsLargeAsCanBe => false,
        }
    }
}

impl History {
    /// Plays the history. `watch` gets the world before and after each batch, and its answers.
    fn play(
        &self,
        batches: &Batches<'_>,
        mut apply: impl FnMut(&mut World, &[Post]) -> Vec<Answer>,
        mut watch: impl FnMut(&World, &World, &[Answer]) -> TestCaseResult,
    ) -> Result<(World, Vec<Answer>), TestCaseError> {
        let mut world = self.world.clone();
        let mut answers = Vec::new();
        let mut clock = at(0);
        let mut batch = Vec::new();
        let mut flush = |world: &mut World, batch: &mut Vec<Post>| {
            let before = world.clone();
            let told = apply(world, &std::mem::take(batch));
            watch(&before, world, &told)?;
            answers.extend(told);
            Ok::<(), TestCaseError>(())
        };
        let mut updates = 0;
        for step in &self.steps {
            match step {
                Step::Update { component, condition, report, title, gap } => {
                    clock = clock.plus_micros(*gap);
                    batch.push(Post {
                        component: *component,
                        condition: *condition,
                        report: report.clone(),
                        text: (*title).to_owned(),
                        at: clock,
                    });
                    if batches.end_after(updates) {
                        flush(&mut world, &mut batch)?;
                    }
                    updates += 1;
                }
                Step::Edit(edit) => {
                    flush(&mut world, &mut batch)?;
                    edit.make(&mut world, clock);
                }
            }
        }
        flush(&mut world, &mut batch)?;
        Ok((world, answers))
    }

    /// The microseconds from its first step to its last.
    fn length(&self) -> i64 {
        let gap = |step: &Step| match step {
            Step::Update { gap, .. } => *gap,
            Step::Edit(_) => 0,
        };
        self.steps.iter().map(gap).sum()
    }

    /// Plays it with the decision, in the given batches.
    fn decided(
        &self,
        batches: &Batches<'_>,
        watch: impl FnMut(&World, &World, &[Answer]) -> TestCaseResult,
    ) -> Result<(World, Vec<Answer>), TestCaseError> {
        self.play(batches, apply_batch, watch)
    }

    /// Checks the properties after each batch, with small batches and with large ones.
    fn after_each_batch(
        &self,
        cuts: &[bool],
        mut watch: impl FnMut(&World, &World) -> TestCaseResult,
    ) -> TestCaseResult {
        for batches in [Batches::OneEach, Batches::CutAt(cuts)] {
            self.decided(&batches, |before, after, _| watch(before, after))?;
        }
        Ok(())
    }
}

impl Edit {
    fn make(&self, world: &mut World, clock: Timestamp) {
        match self {
            Self::Close(index) => {
                if let Some(incident) = pick(world, *index, |i| i.end.is_none()) {
                    incident.end = Some(clock);
                }
            }
            Self::TakeOver(index) => {
                if let Some(incident) = pick(world, *index, Incident::is_active_system_incident) {
                    incident.system = false;
                }
            }
            Self::Separate(index, which) => {
                if let Some(incident) = pick(world, *index, |i| !i.components.is_empty()) {
                    let all: Vec<ComponentId> = incident.components.iter().copied().collect();
                    incident.components.remove(which.get(&all));
                }
            }
            Self::Reopen(index) => {
                if let Some(incident) = pick(world, *index, |i| !i.system && i.end.is_some()) {
                    incident.end = None;
                }
            }
            Self::Add(incident) => {
                world.add(incident.clone());
            }
        }
    }
}

fn pick(
    world: &mut World,
    index: Index,
    eligible: impl Fn(&Incident) -> bool,
) -> Option<&mut Incident> {
    let mut all: Vec<&mut Incident> =
        world.incidents.values_mut().filter(|incident| eligible(incident)).collect();
    if all.is_empty() { None } else { Some(all.swap_remove(index.index(all.len()))) }
}

fn active_system_incidents(world: &World) -> impl Iterator<Item = (&IncidentId, &Incident)> {
    world.incidents.iter().filter(|(_, incident)| incident.is_active_system_incident())
}

/// Applies the updates one by one with the naive implementation of the rules.
fn naively(world: &mut World, posts: &[Post]) -> Vec<Answer> {
    posts.iter().map(|post| model::apply(world, post)).collect()
}

fn unwatched(_: &World, _: &World, _: &[Answer]) -> TestCaseResult {
    Ok(())
}

fn check_against_naive(history: &History) -> TestCaseResult {
    let decided = history.decided(&Batches::OneEach, unwatched)?;
    let naive = history.play(&Batches::OneEach, naively, unwatched)?;
    prop_assert_eq!(decided, naive);
    Ok(())
}

fn check_cuts(history: &History, cuts: &[bool]) -> TestCaseResult {
    let large = history.decided(&Batches::AsLargeAsCanBe, unwatched)?;
    prop_assert_eq!(&large, &history.decided(&Batches::CutAt(cuts), unwatched)?);
    prop_assert_eq!(&large, &history.decided(&Batches::OneEach, unwatched)?);
    Ok(())
}

fn check_repetition(history: &History) -> TestCaseResult {
    let repeat = |world: &mut World, posts: &[Post]| {
        let mut answers = Vec::new();
        for post in posts {
            let mut once = world.clone();
            let mut twice = world.clone();
            let first = apply_batch(&mut once, std::slice::from_ref(post));
            let both = apply_batch(&mut twice, &[post.clone(), post.clone()]);
            assert_eq!(first, both[..1]);
            assert_eq!(once, twice, "the repetition changes nothing in the same batch");
            let again = apply_batch(&mut twice, std::slice::from_ref(post));
            assert_eq!(once, twice, "nor does it in the next one");
            assert_eq!(again, both[1..]);

            let (expected, incident) = match first[0].reason.outcome() {
                Outcome::Left | Outcome::Closed => (Reason::InNoSystemIncident, None),
                Outcome::Opened | Outcome::Joined | Outcome::Raised | Outcome::Moved => {
                    (Reason::CoveredBySystemIncident, first[0].incident.clone())
                }
                Outcome::Unchanged | Outcome::Suppressed => {
                    (first[0].reason, first[0].incident.clone())
                }
            };
            assert_eq!(again[0].reason, expected);
            // What a component recovered from no longer covers it; something else may.
            if expected != Reason::InNoSystemIncident {
                assert_eq!(again[0].incident, incident);
            }
            answers.extend(first);
            *world = once;
        }
        answers
    };
    history.play(&Batches::OneEach, repeat, unwatched)?;
    Ok(())
}

proptest! {
    #[test]
    fn the_decision_agrees_with_the_model(history in histories(Origin::Rules)) {
        check_against_naive(&history)?;
    }

    #[test]
    fn the_decision_agrees_with_the_model_after_foreign_edits(
        history in histories(Origin::Anyone),
    ) {
        check_against_naive(&history)?;
    }

    #[test]
    fn batches_may_be_cut_anywhere(history in histories(Origin::Rules), cuts in cuts()) {
        check_cuts(&history, &cuts)?;
    }

    #[test]
    fn batches_may_be_cut_anywhere_after_foreign_edits(
        history in histories(Origin::Anyone), cuts in cuts(),
    ) {
        check_cuts(&history, &cuts)?;
    }

    #[test]
    fn a_component_is_in_at_most_one_active_system_incident(
        history in histories(Origin::Rules), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |_, after| {
            for component in after.catalogue.keys() {
                let holding: Vec<_> = active_system_incidents(after)
                    .filter(|(_, incident)| incident.components.contains(component))
                    .collect();
                prop_assert!(holding.len() <= 1, "{component} is in {holding:?}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn there_is_at_most_one_active_system_incident_of_an_impact(
        history in histories(Origin::Rules), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |_, after| {
            for impact in Impact::REPORTABLE {
                let of_impact: Vec<_> =
                    active_system_incidents(after).filter(|(_, i)| i.impact == impact).collect();
                prop_assert!(of_impact.len() <= 1, "{impact} have {of_impact:?}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn the_impact_of_an_incident_never_falls(
        history in histories(Origin::Anyone), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |before, after| {
            for (id, incident) in &before.incidents {
                prop_assert!(after.incidents[id].impact >= incident.impact, "{id} fell");
            }
            Ok(())
        })?;
    }

    #[test]
    fn no_update_changes_a_manual_incident_or_a_maintenance(
        history in histories(Origin::Anyone), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |before, after| {
            for (id, incident) in &before.incidents {
                if !incident.system || incident.impact == Impact::Maintenance {
                    prop_assert_eq!(&after.incidents[id], incident);
                }
            }
            let made = after.incidents.iter().filter(|(id, _)| !before.incidents.contains_key(id));
            for (id, incident) in made {
                prop_assert!(incident.system && incident.impact != Impact::Maintenance, "{id}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn no_update_changes_an_incident_that_was_closed(
        history in histories(Origin::Anyone), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |before, after| {
            for (id, incident) in before.incidents.iter().filter(|(_, i)| i.end.is_some()) {
                prop_assert_eq!(&after.incidents[id], incident);
            }
            Ok(())
        })?;
    }

    #[test]
    fn what_an_update_adds_to_an_incident_is_later_than_all_before_it(
        history in histories(Origin::Anyone), cuts in cuts(),
    ) {
        history.after_each_batch(&cuts, |before, after| {
            for (id, incident) in &after.incidents {
                let rising = incident.updates.is_sorted_by(|a, b| a.0 < b.0);
                prop_assert!(rising, "{id}: {:?}", incident.updates);
                if let Some(before) = before.incidents.get(id) {
                    prop_assert!(incident.updates.starts_with(&before.updates), "{id}");
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn an_update_that_is_repeated_at_once_changes_nothing(history in histories(Origin::Rules)) {
        check_repetition(&history)?;
    }

    #[test]
    fn an_update_that_is_repeated_at_once_changes_nothing_after_foreign_edits(
        history in histories(Origin::Anyone),
    ) {
        check_repetition(&history)?;
    }
}

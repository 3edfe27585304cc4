//! Properties of recovery and of reports.

use model::{Post, World};
use proptest::prelude::*;
use shared::{
    domain::{
        component::ComponentId, condition::Condition, impact::Impact, outcome::Outcome,
        timestamp::Timestamp,
    },
    wire::message::Report,
};

use super::{
    A_DAY, Batches, active_system_incidents, at,
    generators::{Origin, histories},
    unwatched,
};
use crate::domain::tests::world::apply_batch;

/// A minute and a microsecond: what a clock that is so much ahead says is not believed.
const LATER: i64 = 60_000_001;

type ReportKey = (ComponentId, String, String);

fn standing(world: &World) -> impl Iterator<Item = &ReportKey> {
    world.reports.iter().filter(|(_, report)| report.stands).map(|(id, _)| id)
}

/// Whether an `ok` that was said before would be said twice, or is older than what its source has said since.
fn is_old(world: &World, ok: &Post, now: Timestamp) -> bool {
    let Some(said) = &ok.report else { return false };
    let report = (ok.component, said.source.clone(), said.key.clone());
    let Some(known) = world.reports.get(&report) else { return false };
    let is_doubled = !known.stands && known.ended.is_some_and(|at| at.plus_micros(A_DAY) > now);
    let is_late = said.ends_at.is_some_and(|end| known.start.is_some_and(|start| end < start));
    is_doubled || known.stands && is_late
}

proptest! {
    #[test]
    fn a_component_with_a_report_that_stands_never_recovers(history in histories(Origin::Anyone)) {
        history.decided(&Batches::OneEach, |before, after, _| {
            let stands = |report: &&ReportKey| standing(after).any(|other| other == *report);
            for (component, ..) in standing(before).filter(stands) {
                for (id, incident) in active_system_incidents(before) {
                    if incident.components.contains(component) {
                        let worst = active_system_incidents(after)
                            .filter(|(_, i)| i.components.contains(component))
                            .map(|(_, i)| i.impact)
                            .max();
                        prop_assert!(worst >= Some(incident.impact), "{component} left {id}");
                    }
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn recovery_of_the_last_component_closes_and_of_another_leaves(
        history in histories(Origin::Rules),
    ) {
        history.decided(&Batches::OneEach, |before, after, answers| {
            for answer in answers {
                let Some(shown) = &answer.incident else { continue };
                let (was, is) = (before.incidents.get(&shown.id), &after.incidents[&shown.id]);
                match answer.reason.outcome() {
                    Outcome::Closed => {
                        let was = was.unwrap();
                        prop_assert_eq!((was.components.len(), is.end.is_some()), (1, true));
                        prop_assert_eq!(&was.components, &is.components);
                    }
                    Outcome::Left => {
                        prop_assert_eq!(is.components.len() + 1, was.unwrap().components.len());
                        prop_assert!(is.end.is_none() && !is.components.is_empty());
                    }
                    Outcome::Opened
                    | Outcome::Joined
                    | Outcome::Raised
                    | Outcome::Moved
                    | Outcome::Unchanged
                    | Outcome::Suppressed => {}
                }
            }
            Ok(())
        })?;
    }

    #[test]
    fn whatever_clocks_said_a_right_one_ends_and_begins_each_report(
        history in histories(Origin::Anyone),
    ) {
        let (mut world, _) = history.decided(&Batches::OneEach, unwatched)?;
        let now = at(history.length() + LATER);
        let all: Vec<ReportKey> = world.reports.keys().cloned().collect();
        for (component, source, key) in all {
            let said = |condition, starts_at, ends_at| Post {
                component,
                condition,
                report: Some(Report {
                    source: source.clone(),
                    key: key.clone(),
                    ttl: None,
                    starts_at,
                    ends_at,
                }),
                text: "Incident".to_owned(),
                at: now,
            };
            let firing = said(Condition::Impact(Impact::Minor), Some(now.plus_micros(1)), None);
            for (post, stands) in [(said(Condition::Ok, None, Some(now)), false), (firing, true)] {
                apply_batch(&mut world, &[post]);
                let report = &world.reports[&(component, source.clone(), key.clone())];
                prop_assert_eq!(report.stands, stands, "{:?}", report);
            }
        }
    }

    #[test]
    fn an_update_concerns_no_report_but_its_own(history in histories(Origin::Anyone)) {
        let apply = |world: &mut World, posts: &[Post]| {
            let mut answers = Vec::new();
            for post in posts {
                let before = world.reports.clone();
                answers.extend(apply_batch(world, std::slice::from_ref(post)));
                for (id, report) in &world.reports {
                    let said = post.report.as_ref().is_some_and(|said| {
                        *id == (post.component, said.source.clone(), said.key.clone())
                    });
                    assert!(said || before.get(id) == Some(report), "{id:?} changed");
                }
            }
            answers
        };
        history.play(&Batches::OneEach, apply, unwatched)?;
    }

    #[test]
    fn an_ok_that_is_doubled_or_late_changes_no_incident(history in histories(Origin::Anyone)) {
        let mut said: Vec<Post> = Vec::new();
        let apply = |world: &mut World, posts: &[Post]| {
            let mut answers = Vec::new();
            for post in posts {
                answers.extend(apply_batch(world, std::slice::from_ref(post)));
                said.extend((post.condition == Condition::Ok).then(|| post.clone()));
                for ok in said.iter().filter(|ok| is_old(world, ok, post.at)) {
                    let mut again = world.clone();
                    apply_batch(&mut again, &[Post { at: post.at, ..ok.clone() }]);
                    assert_eq!(again.incidents, world.incidents, "{ok:?}");
                }
            }
            answers
        };
        history.play(&Batches::OneEach, apply, unwatched)?;
    }
}

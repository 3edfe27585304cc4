//! The Python dashboard's answers to 150 recorded series of posts, and the incidents at the end.

use std::{collections::BTreeMap, fmt};

use model::{Answer, Incident, Post, World};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use shared::domain::{
    component::{Attribute, Component, ComponentId},
    impact::Impact,
    incident::{IncidentId, SYSTEM_STATUS},
    outcome::Reason,
    timestamp::Timestamp,
};

use super::{at, world::apply_batch};

const RECORDINGS: &str = include_str!("../../../../tests/data/v1-scenarios.json");

const SECOND: i64 = 1_000_000;
const HOUR: i64 = 3_600 * SECOND;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Scenario {
    seed: u32,
    components: Vec<CatalogueEntry>,
    preset: Vec<Preset>,
    posts: Vec<Body>,
    answers: Vec<Recorded>,
    r#final: Final,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CatalogueEntry {
    name: String,
    attributes: InOrder,
}

/// The attributes of a component in the order of the recording, which a map would lose.
#[derive(Debug, PartialEq)]
struct InOrder(Vec<Attribute>);

impl<'de> Deserialize<'de> for InOrder {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = InOrder;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("attributes with their values")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<InOrder, M::Error> {
                let mut attributes = Vec::new();
                while let Some((name, value)) = map.next_entry()? {
                    attributes.push(Attribute { name, value });
                }
                Ok(InOrder(attributes))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Preset {
    kind: String,
    impact: i16,
    system: bool,
    window: Window,
    components: Vec<usize>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Window {
    Open,
    Running,
    Future,
    Past,
    Closed,
}

impl Window {
    fn start_and_end(&self) -> (Timestamp, Option<Timestamp>) {
        let hours = |hours| at(hours * HOUR);
        match self {
            Self::Open => (hours(-1), None),
            Self::Running => (hours(-1), Some(hours(1))),
            Self::Future => (hours(1), Some(hours(2))),
            Self::Past | Self::Closed => (hours(-3), Some(hours(-2))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    name: String,
    impact: i16,
    attributes: Vec<Attribute>,
    text: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "effect", rename_all = "lowercase", deny_unknown_fields)]
enum Recorded {
    /// A 201 with the incident.
    Incident { incident: i32, body: Shown },
    /// A 409 that names the incident that already has the component.
    None { incident: i32 },
}

/// An incident of the recordings.
#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    id: i32,
    text: String,
    impact: i16,
    open: bool,
    /// Newest first.
    updates: Vec<ShownUpdate>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownUpdate {
    status: String,
    text: String,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Final {
    incidents: Vec<Shown>,
    components: Vec<ShownComponent>,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShownComponent {
    id: i32,
    name: String,
    attributes: InOrder,
    incidents: Vec<i32>,
}

impl Scenario {
    fn world(&self) -> World {
        let mut catalogue = BTreeMap::new();
        for (id, entry) in (1..).map(ComponentId).zip(&self.components) {
            let (name, attributes) = (entry.name.clone(), entry.attributes.0.clone());
            catalogue.insert(id, Component { id, name, attributes });
        }
        let mut world = World { catalogue, ..World::default() };
        for preset in &self.preset {
            let (start, end) = preset.window.start_and_end();
            world.add(Incident {
                text: format!("preset {}", preset.kind),
                impact: Impact::try_from(preset.impact).unwrap(),
                start,
                end,
                system: preset.system,
                components: preset.components.iter().map(|index| id_at(*index)).collect(),
                updates: Vec::new(),
            });
        }
        world
    }

    /// The posts as updates, one second apart.
    fn updates(&self, world: &World) -> Vec<Post> {
        let times = (0..).map(|place| at(place * SECOND));
        let updates = self.posts.iter().zip(times).map(|(body, at)| Post {
            component: named(world, body),
            condition: Impact::try_from(body.impact).unwrap().into(),
            report: None,
            text: body.text.clone().unwrap_or_else(|| "Incident".to_owned()),
            at,
        });
        updates.collect()
    }

    /// Applies the posts in batches of the given size, and compares the results with the recording.
    fn check(&self, batch_size: usize) {
        let seed = self.seed;
        let mut world = self.world();
        let mut answers = Vec::new();
        for batch in self.updates(&world).chunks(batch_size) {
            answers.extend(apply_batch(&mut world, batch));
        }
        assert_eq!(answers.len(), self.answers.len(), "scenario {seed}");
        for (place, (answer, recorded)) in answers.iter().zip(&self.answers).enumerate() {
            check_answer(&format!("scenario {seed}, post {place}"), answer, recorded);
        }
        assert_eq!(shown_world(&world), self.r#final, "scenario {seed}, at the end");
    }
}

fn id_at(index: usize) -> ComponentId {
    ComponentId(index as i32 + 1)
}

/// The component with this name and exactly these attributes; otherwise the only one with this name whose
/// attributes include these.
fn named(world: &World, body: &Body) -> ComponentId {
    let larger: Vec<&Component> = world
        .catalogue
        .values()
        .filter(|c| c.name == body.name && body.attributes.iter().all(|a| c.attributes.contains(a)))
        .collect();
    let exact = larger.iter().find(|c| c.attributes.len() == body.attributes.len());
    match (exact, larger.as_slice()) {
        (Some(component), _) => component.id,
        (None, [component]) => component.id,
        (None, none_or_several) => panic!("`{}` may mean {none_or_several:?}", body.name),
    }
}

fn check_answer(place: &str, answer: &Answer, recorded: &Recorded) {
    match recorded {
        Recorded::Incident { incident, body } => {
            assert_eq!(*incident, body.id, "{place}: the recording itself");
            assert_eq!(shown_answer(answer), *body, "{place}");
            // The Python dashboard answers 201 with a running maintenance, too.
            let suppressed = answer.reason == Reason::InRunningMaintenance;
            assert_eq!(suppressed, body.impact == 0, "{place}: {}", answer.reason);
            assert!(
                suppressed || answer.reason.outcome().is_change(),
                "{place}: {}",
                answer.reason
            );
        }
        Recorded::None { incident } => {
            assert_eq!(shown_by(answer).id, IncidentId(*incident), "{place}: {}", answer.reason);
            let covered = [Reason::CoveredByManualIncident, Reason::CoveredBySystemIncident];
            assert!(covered.contains(&answer.reason), "{place}: {}", answer.reason);
        }
    }
}

fn shown_by(answer: &Answer) -> &model::Shown {
    answer.incident.as_ref().expect("by the five rules there is one")
}

fn shown_answer(answer: &Answer) -> Shown {
    let incident = shown_by(answer);
    shown(incident.id, &incident.text, incident.impact, incident.end, &incident.updates)
}

fn shown(
    id: IncidentId,
    text: &str,
    impact: Impact,
    end: Option<Timestamp>,
    updates: &[(Timestamp, String)],
) -> Shown {
    let newest_first = updates.iter().rev();
    let updates = newest_first
        .map(|(_, text)| ShownUpdate { status: SYSTEM_STATUS.to_owned(), text: text.clone() })
        .collect();
    Shown { id: id.0, text: text.to_owned(), impact: impact.into(), open: end.is_none(), updates }
}

fn shown_world(world: &World) -> Final {
    let incidents = world
        .incidents
        .iter()
        .map(|(id, i)| shown(*id, &i.text, i.impact, i.end, &i.updates))
        .collect();
    let components = world
        .catalogue
        .values()
        .map(|component| ShownComponent {
            id: component.id.0,
            name: component.name.clone(),
            attributes: InOrder(component.attributes.clone()),
            incidents: world
                .incidents
                .iter()
                .filter(|(_, incident)| incident.components.contains(&component.id))
                .map(|(id, _)| id.0)
                .collect(),
        })
        .collect();
    Final { incidents, components }
}

fn recordings() -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> = serde_json::from_str(RECORDINGS).unwrap();
    assert_eq!(scenarios.len(), 150);
    for scenario in &mut scenarios {
        for component in &mut scenario.r#final.components {
            // The recording does not have their order.
            component.incidents.sort_unstable();
        }
    }
    scenarios
}

#[test]
fn every_recorded_answer_and_end_is_met_post_by_post() {
    for scenario in recordings() {
        scenario.check(1);
    }
}

#[test]
fn every_recorded_answer_and_end_is_met_with_all_posts_in_one_batch() {
    for scenario in recordings() {
        scenario.check(usize::MAX);
    }
}

#[test]
fn every_recorded_answer_and_end_is_met_in_batches_of_three() {
    for scenario in recordings() {
        scenario.check(3);
    }
}

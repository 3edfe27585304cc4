//! Generates histories: initial states, updates, edits by others.

use std::collections::{BTreeMap, BTreeSet};

use model::{Incident, World};
use proptest::{
    bool::weighted,
    collection::vec,
    option,
    prelude::*,
    sample::{Index, select},
    strategy::ValueTree,
    test_runner::TestRunner,
};
use shared::{
    domain::{
        component::{Attribute, Component, ComponentId},
        condition::Condition,
        impact::Impact,
        outcome::Reason,
        timestamp::Timestamp,
    },
    wire::message::Report,
};

use super::{
    A_DAY, Batches, COMPONENTS, Edit, History, STEPS, Step, TITLES, UPDATED, at, unwatched,
};

/// The initial state.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// What updates can lead to: no component in two system incidents, no impact twice.
    Rules,
    /// Anything that the tables can have, because others write to them.
    Anyone,
}

pub(super) fn histories(origin: Origin) -> impl Strategy<Value = History> {
    let steps = vec(prop_oneof![7 => update(), 1 => edit().prop_map(Step::Edit)], 1..=STEPS);
    (world(origin), steps).prop_map(|(world, steps)| History { world, steps })
}

pub(super) fn cuts() -> impl Strategy<Value = Vec<bool>> {
    vec(weighted(0.3), STEPS)
}

fn update() -> impl Strategy<Value = Step> {
    // Seldom so much later that what was known of ends is forgotten.
    let gap = prop_oneof![30 => 1..4_i64, 1 => Just(A_DAY)];
    (1..=UPDATED, said(), select(&TITLES[..]), gap).prop_map(
        |(component, (condition, report), title, gap)| Step::Update {
            component: ComponentId(component),
            condition,
            report,
            title,
            gap,
        },
    )
}

/// An impact without a report, as in messages of older versions; or an impact or `ok` with one.
fn said() -> impl Strategy<Value = (Condition, Option<Report>)> {
    let ok = report().prop_map(|report| {
        let ends_at = report.ends_at.or(report.starts_at);
        (Condition::Ok, Some(Report { starts_at: None, ends_at, ..report }))
    });
    let impact = (reportable(), option::weighted(0.6, report())).prop_map(|(impact, report)| {
        (impact.into(), report.map(|report| Report { ends_at: None, ..report }))
    });
    prop_oneof![2 => impact, 1 => ok]
}

fn report() -> impl Strategy<Value = Report> {
    // Some clocks are ahead, by less than it is believed, or by more.
    let time = prop_oneof![
        8 => -5..40_i64,
        1 => 50_000_000..70_000_000_i64,
        1 => Just(2 * A_DAY),
        1 => Just(i64::MAX / 4),
    ];
    let time = || option::weighted(0.7, time.clone().prop_map(at));
    (
        select(&["", "prometheus"][..]),
        select(&["", "disk"][..]),
        option::of(60..63_u32),
        time(),
        time(),
    )
        .prop_map(|(source, key, ttl, starts_at, ends_at)| Report {
            source: source.to_owned(),
            key: key.to_owned(),
            ttl,
            starts_at,
            ends_at,
        })
}

fn reportable() -> impl Strategy<Value = Impact> {
    select(&Impact::REPORTABLE[..])
}

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        any::<Index>().prop_map(Edit::Close),
        any::<Index>().prop_map(Edit::TakeOver),
        any::<(Index, Index)>().prop_map(|(incident, which)| Edit::Separate(incident, which)),
        any::<Index>().prop_map(Edit::Reopen),
        maintenance().prop_map(Edit::Add),
        manual_incident().prop_map(Edit::Add),
    ]
}

fn world(origin: Origin) -> BoxedStrategy<World> {
    let system = match origin {
        Origin::Rules => valid_system_incidents().boxed(),
        Origin::Anyone => vec(system_incident(), 0..6).boxed(),
    };
    let others = (
        vec(maintenance(), 0..3),
        vec(manual_incident(), 0..3),
        vec(closed_system_incident(), 0..2),
    );
    (system, others)
        .prop_map(|(system, (maintenances, manual, closed))| {
            [system, maintenances, manual, closed].concat()
        })
        // Their age must have no more influence than by the rules.
        .prop_shuffle()
        .prop_map(|incidents| {
            let mut world = World { catalogue: catalogue(), ..World::default() };
            for incident in incidents {
                world.add(incident);
            }
            world
        })
        .boxed()
}

fn catalogue() -> BTreeMap<ComponentId, Component> {
    let names = ["DNS", "CDN", "VPN <beta>", "R&D \"lab\"", "Object Storage", "it's"];
    let attribute = |name: &str, value: &str| Attribute { name: name.into(), value: value.into() };
    let component = |(id, name): (i32, &str)| {
        let all = [attribute("region", "EU-DE"), attribute("category", "A&B")];
        // One has no attributes, the next one, the next two.
        let attributes = all[..(id % 3) as usize].to_vec();
        (ComponentId(id), Component { id: ComponentId(id), name: name.to_owned(), attributes })
    };
    (1..=COMPONENTS).zip(names).map(component).collect()
}

fn some_components() -> impl Strategy<Value = BTreeSet<ComponentId>> {
    vec(weighted(0.3), COMPONENTS as usize)
        .prop_map(|taken| (1..).map(ComponentId).zip(taken).filter(|c| c.1).map(|c| c.0).collect())
}

/// Starts and ends close to the times of the updates.
fn window() -> impl Strategy<Value = (Timestamp, Option<Timestamp>)> {
    (-30..60_i64, option::of(0..40_i64))
        .prop_map(|(start, length)| (at(start), length.map(|length| at(start + length))))
}

/// At most one update so far, possibly ahead of the clock.
fn earlier_updates() -> impl Strategy<Value = Vec<(Timestamp, String)>> {
    vec((-30..30_i64).prop_map(|micros| (at(micros), "we look into it".to_owned())), 0..=1)
}

fn maintenance() -> impl Strategy<Value = Incident> {
    (some_components(), window(), earlier_updates(), weighted(0.2)).prop_map(
        |(components, (start, end), updates, system)| Incident {
            text: "disks are replaced".to_owned(),
            impact: Impact::Maintenance,
            start,
            end,
            // It is a maintenance, regardless of who created it.
            system,
            components,
            updates,
        },
    )
}

fn manual_incident() -> impl Strategy<Value = Incident> {
    (some_components(), reportable(), window(), earlier_updates()).prop_map(
        |(components, impact, (start, end), updates)| Incident {
            text: "operators' <own>".to_owned(),
            impact,
            start,
            end,
            system: false,
            components,
            updates,
        },
    )
}

fn system_incident() -> impl Strategy<Value = Incident> {
    (some_components(), reportable(), -60..0_i64, earlier_updates(), select(&TITLES[..])).prop_map(
        |(components, impact, start, updates, title)| Incident {
            text: title.to_owned(),
            impact,
            start: at(start),
            end: None,
            system: true,
            components,
            updates,
        },
    )
}

fn closed_system_incident() -> impl Strategy<Value = Incident> {
    (system_incident(), 0..60_i64).prop_map(|(incident, length)| {
        let end = Some(incident.start.plus_micros(length));
        Incident { end, ..incident }
    })
}

/// For each impact at most one, and each component in at most one. Some have no components, as after an
/// operator removed them.
fn valid_system_incidents() -> impl Strategy<Value = Vec<Incident>> {
    let places = vec(0..=3_usize, COMPONENTS as usize);
    let incidents = vec(option::of(system_incident()), 3);
    (places, incidents).prop_map(|(places, incidents)| {
        let of_impact = |(incident, impact): (Option<Incident>, Impact)| {
            let components = (1..)
                .map(ComponentId)
                .zip(&places)
                .filter(|(_, place)| **place == usize::from(i16::from(impact) as u16))
                .map(|(component, _)| component)
                .collect();
            Some(Incident { impact, components, ..incident? })
        };
        incidents.into_iter().zip(Impact::REPORTABLE).filter_map(of_impact).collect()
    })
}

/// Properties are only as good as the generated histories: this fails if a change of the generators omits a
/// rule.
#[test]
fn generated_histories_meet_every_rule_often() {
    let mut runner = TestRunner::deterministic();
    let histories = histories(Origin::Rules);
    let mut met = BTreeMap::new();
    for _ in 0..500 {
        let history = histories.new_tree(&mut runner).unwrap().current();
        let (_, answers) = history.decided(&Batches::AsLargeAsCanBe, unwatched).unwrap();
        for answer in answers {
            *met.entry(answer.reason.word()).or_insert(0) += 1;
        }
    }
    for reason in Reason::ALL {
        assert!(met.get(reason.word()) >= Some(&10), "{met:?}");
    }
}

//! Edits at random, a few incidents at a time: the telling with which every test ends must agree with what the
//! triggers recorded.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy},
    prop_oneof,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, RngSeed, TestRunner},
};

use super::with_components;
use crate::workers::decided;
use harness::{Fixture, NOW, System, tests};

tests!(intervals_are_as_told_after_random_edits);

/// Rounds, each with incidents of its own.
const ROUNDS: i32 = 30;
/// Incidents of a round.
const INCIDENTS: i32 = 3;
/// Edits of a round.
const EDITS: usize = 40;

/// A time near the beginning of the test, as few different ones, so that times of an incident are often equal to
/// others.
fn time(base: &str) -> impl Strategy<Value = String> + use<> {
    let base = base.to_owned();
    select(&[-5, -4, -3, -2, -1, 1, 2, 3][..])
        .prop_map(move |hours| format!("timestamp '{base}' + interval '{hours} hours'"))
}

fn end(base: &str) -> impl Strategy<Value = String> + use<> {
    option::weighted(0.6, time(base)).prop_map(|end| end.unwrap_or_else(|| "NULL".to_owned()))
}

/// An incident, inserted with some of the components.
fn insertion(base: &str, id: i32) -> impl Strategy<Value = String> + use<> {
    (time(base), end(base), 0..4, vec(1..4_i32, 0..3)).prop_map(
        move |(start, end, impact, components)| {
            format!(
                "BEGIN;
                INSERT INTO incident (id, text, start_date, end_date, impact, system)
                VALUES ({id}, 'At random', {start}, {end}, {impact}, false);
                INSERT INTO incident_component_relation (incident_id, component_id)
                SELECT {id}, id FROM component WHERE id = ANY('{{{}}}');
                COMMIT",
                components.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
            )
        },
    )
}

/// An edit of one of the incidents from `first`.
fn edit(base: &str, first: i32) -> impl Strategy<Value = String> + use<> {
    let join = |(incident, component)| {
        format!(
            "INSERT INTO incident_component_relation (incident_id, component_id)
            VALUES ({incident}, {component}) ON CONFLICT DO NOTHING"
        )
    };
    let leave = |(incident, component)| {
        format!(
            "DELETE FROM incident_component_relation
            WHERE incident_id = {incident} AND component_id = {component}"
        )
    };
    let one = move || first..first + INCIDENTS;
    let start = prop_oneof![Just("start_date".to_owned()), time(base)];
    let end = prop_oneof![Just("end_date".to_owned()), end(base)];
    let impact = prop_oneof![2 => Just("impact".to_owned()), 1 => (0..4).prop_map(|impact: i32| impact.to_string())];
    let update = (one(), start, end, impact).prop_map(|(incident, start, end, impact)| {
        format!(
            "UPDATE incident SET start_date = {start}, end_date = {end}, impact = {impact}
            WHERE id = {incident}"
        )
    });
    prop_oneof![
        1 => (one(), 1..4).prop_map(join),
        1 => (one(), 1..4).prop_map(leave),
        4 => update,
    ]
}

async fn intervals_are_as_told_after_random_edits(fixture: Arc<Fixture>) -> Result<()> {
    let system = with_components(&fixture).await?;
    decided(&system, "DNS", 1, 201).await?;
    let mut random = TestRunner::new(Config {
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(7),
        ..Config::default()
    });
    for first in (0..ROUNDS).map(|round| 100 + round * INCIDENTS) {
        let now = system.texts(&format!("SELECT ({NOW})::text")).await?;
        let base = now.first().map(String::as_str).unwrap_or_default();
        for id in first..first + INCIDENTS {
            run(&system, &mut random, &insertion(base, id)).await?;
        }
        for _ in 0..EDITS {
            run(&system, &mut random, &edit(base, first)).await?;
        }
    }
    system.finish().await
}

/// Draws a statement, and runs it.
async fn run(
    system: &System,
    random: &mut TestRunner,
    statements: &impl Strategy<Value = String>,
) -> Result<()> {
    let drawn = statements.new_tree(random).map_err(|reason| anyhow!("{reason}"))?;
    system.sql(&drawn.current()).await
}

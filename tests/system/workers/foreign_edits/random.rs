//! Edits at random, a few incidents at a time, some of them only noted as those of batches are: the telling with which
//! every test ends must agree with what the triggers recorded, and applying what is noted changes nothing for readers.

use std::sync::Arc;

use anyhow::{Result, anyhow, ensure};
use proptest::{
    collection::vec,
    option,
    prelude::{Just, Strategy},
    prop_oneof,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, RngSeed, TestRunner, contextualize_config},
};

use super::noted::without_workers;
use harness::{Fixture, NOW, System, tests};

tests!(intervals_are_as_told_after_random_edits);

/// Rounds, each with incidents of its own, unless `PROPTEST_CASES` says otherwise.
const ROUNDS: u32 = 30;
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

/// The same edit by a transaction that only notes it.
fn noted(edit: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    edit.prop_map(|edit| format!("BEGIN; SET LOCAL sdb.affected_later = 'on'; {edit}; COMMIT"))
}

/// Applies the oldest changes that are noted of one of the incidents from `first`.
fn application(first: i32) -> impl Strategy<Value = String> {
    (first..first + INCIDENTS, 1..4).prop_map(|(incident, most)| {
        format!(
            "SELECT sdb_affected_apply({incident}, ARRAY(SELECT id FROM sdb_affected_change
                WHERE incident_id = {incident} ORDER BY id LIMIT {most}))"
        )
    })
}

async fn intervals_are_as_told_after_random_edits(fixture: Arc<Fixture>) -> Result<()> {
    let system = without_workers(&fixture).await?;
    // `PROPTEST_RNG_SEED` gives another seed.
    let config = contextualize_config(Config {
        rng_algorithm: RngAlgorithm::ChaCha,
        rng_seed: RngSeed::Fixed(7),
        cases: ROUNDS,
        ..Config::default()
    });
    let rounds = i32::try_from(config.cases)?;
    let mut random = TestRunner::new(config);
    for first in (0..rounds).map(|round| 100 + round * INCIDENTS) {
        let now = system.texts(&format!("SELECT ({NOW})::text")).await?;
        let base = now.first().map(String::as_str).unwrap_or_default();
        for id in first..first + INCIDENTS {
            run(&system, &mut random, &insertion(base, id)).await?;
        }
        for _ in 0..EDITS {
            let any = prop_oneof![edit(base, first), noted(edit(base, first))];
            run(&system, &mut random, &any).await?;
            let before = intervals(&system, first).await?;
            run(&system, &mut random, &application(first)).await?;
            let after = intervals(&system, first).await?;
            ensure!(before == after, "{before:#?}, but when it is applied {after:#?}");
        }
    }
    system.finish().await
}

/// The intervals of a round.
async fn intervals(system: &System, first: i32) -> Result<Vec<String>> {
    let all = "SELECT to_jsonb(a)::text FROM sdb_affected_interval a";
    system.texts(&format!("{all} WHERE incident_id >= {first} ORDER BY 1")).await
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

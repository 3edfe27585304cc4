//! The checkers are checked: faults are planted into runs that are good, and into the database that the
//! real transaction writes, and each must be found for what it is.

mod plants;

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context, Result, ensure};
use harness::{
    Fixture, System,
    simulation::{
        Broken, Edit, End, Flaw, History, Hold, Pick, Step, Update, drawn, prepare, record,
    },
    tests,
    verdict::{Kind, Run, RunVerdict, judge},
};
use shared::domain::impact::Impact;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::plants::PLANTS;

tests!(
    a_fault_that_is_planted_into_a_recorded_run_is_found,
    a_transaction_that_is_broken_is_found,
    a_worker_that_is_broken_is_found,
    a_run_without_anything_fails,
);

/// Histories that faults are planted into.
const SEED: u64 = 5;
const HISTORIES: usize = 24;

async fn simulated(fixture: &Arc<Fixture>) -> Result<System> {
    let system = System::bare(fixture).await?;
    prepare(&system.database_uri).await?;
    Ok(system)
}

/// A history that has all that faults need: every kind of update, edits, parked updates.
fn full_history() -> History {
    let update = |component, impact: Impact, key| Update {
        component,
        condition: impact.into(),
        report: None,
        title: "Incident",
        key,
        flaw: None,
    };
    let post = |component, impact, key| Step::Post(update(component, impact, key));
    let unreadable =
        Step::Post(Update { flaw: Some(Flaw::Unreadable), ..update(1, Impact::Minor, None) });
    let envelope = Step::PostMany(
        vec![
            update(1, Impact::Minor, None),
            update(1, Impact::Major, None),
            update(4, Impact::Minor, None),
        ],
        None,
    );
    let work = || Step::Work(Pick(0), 20, End::Done);
    let edit = Step::Edit;
    History(vec![
        post(1, Impact::Minor, Some(1)),
        post(2, Impact::Minor, None),
        post(1, Impact::Minor, Some(1)),
        work(),
        post(1, Impact::Major, None),
        post(2, Impact::Major, None),
        unreadable,
        work(),
        post(3, Impact::Minor, None),
        post(3, Impact::Outage, None),
        post(1, Impact::Outage, None),
        work(),
        edit(Edit::TakeOver(Pick(0), false)),
        edit(Edit::Cover(vec![4], vec![(None, true), (Some(Impact::Minor), false)])),
        post(2, Impact::Minor, None),
        post(4, Impact::Minor, None),
        post(3, Impact::Major, None),
        work(),
        post(3, Impact::Outage, None),
        edit(Edit::Toggle(3)),
        Step::Beside(Pick(0), 9, Edit::Comment(Pick(1), 0), 3, Hold::Commit),
        post(1, Impact::Outage, None),
        work(),
        envelope.clone(),
        Step::Work(Pick(0), 2, End::Done),
        work(),
        envelope,
        Step::Work(Pick(0), 1, End::KilledAfterCommit),
        Step::Join,
        work(),
    ])
}

async fn good_runs(uri: &str) -> Result<Vec<Run>> {
    let mut histories = vec![full_history()];
    histories.extend(drawn(SEED, HISTORIES)?);
    let mut runs = Vec::new();
    for history in &histories {
        let run = record(uri, history, None).await?.run;
        let verdict = judge(&run);
        // A run that is not good says nothing about what is planted into it.
        verdict.into_result().with_context(|| format!("{history:#?}"))?;
        runs.push(run);
    }
    Ok(runs)
}

async fn a_fault_that_is_planted_into_a_recorded_run_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let system = simulated(&fixture).await?;
    let runs = good_runs(&system.database_uri).await?;
    let mut planted: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, run) in runs.iter().enumerate() {
        for plant in PLANTS {
            let mut run = run.clone();
            if (plant.fault)(&mut run).is_none() {
                continue;
            }
            *planted.entry(plant.name).or_default() += 1;
            let verdict = judge(&run);
            let found = verdict.of(plant.kind).next().is_some();
            ensure!(
                found,
                "run {number}: {}: not found as {:?}: {verdict:?}",
                plant.name,
                plant.kind
            );
        }
    }
    for plant in PLANTS {
        ensure!(planted.contains_key(plant.name), "{} was never planted", plant.name);
    }
    system.finish_with_logs()
}

/// A fault of the transaction: a trigger that the journal does not know, and what is found of it.
struct Fault {
    name: &'static str,
    /// `WHEN`, table and level of the trigger.
    trigger: &'static str,
    /// Its body, before `RETURN`.
    body: &'static str,
    /// What it returns.
    returns: &'static str,
    kind: Kind,
}

const FAULTS: [Fault; 16] = [
    Fault {
        name: "an entry of a timeline is missing",
        trigger: "BEFORE INSERT ON incident_status FOR EACH ROW",
        body: "IF NEW.id % 4 = 0 THEN RETURN NULL; END IF;",
        returns: "NEW",
        kind: Kind::Timeline,
    },
    Fault {
        name: "an entry of a timeline is doubled",
        trigger: "AFTER INSERT ON incident_status FOR EACH ROW WHEN (pg_trigger_depth() = 0)",
        body: "INSERT INTO incident_status (incident_id, timestamp, text, status)
            VALUES (NEW.incident_id, NEW.timestamp, NEW.text, NEW.status);",
        returns: "NULL",
        kind: Kind::Timeline,
    },
    Fault {
        name: "an entry of a timeline has another text",
        trigger: "BEFORE INSERT ON incident_status FOR EACH ROW",
        body: "NEW.text := replace(NEW.text, 'moved', 'went');",
        returns: "NEW",
        kind: Kind::Timeline,
    },
    Fault {
        name: "an entry of a timeline is in somebody else's name",
        trigger: "BEFORE INSERT ON incident_status FOR EACH ROW",
        body: "NEW.status := 'analyzing';",
        returns: "NEW",
        kind: Kind::Timeline,
    },
    Fault {
        name: "an incident that was taken over is taken back",
        trigger: "AFTER INSERT ON sdb_inbox FOR EACH STATEMENT",
        body: "UPDATE incident i SET system = true WHERE NOT system AND EXISTS (
            SELECT FROM incident_status s WHERE s.incident_id = i.id AND s.status = 'analyzing')
            AND NOT EXISTS (SELECT FROM incident o WHERE o.system AND o.impact = i.impact
                AND o.end_date IS NULL);",
        returns: "NULL",
        kind: Kind::ForeignEditUndone,
    },
    Fault {
        name: "an operator's word is deleted",
        trigger: "AFTER INSERT ON sdb_inbox FOR EACH STATEMENT",
        body: "DELETE FROM incident_status WHERE text = 'we look into it';",
        returns: "NULL",
        kind: Kind::ForeignEditUndone,
    },
    Fault {
        name: "a relation is missing",
        trigger: "BEFORE INSERT ON incident_component_relation FOR EACH ROW",
        body: "IF NEW.component_id = 2 THEN RETURN NULL; END IF;",
        returns: "NEW",
        kind: Kind::State,
    },
    Fault {
        name: "an impact is another one",
        trigger: "BEFORE UPDATE OF impact ON incident FOR EACH ROW",
        body: "NEW.impact := OLD.impact;",
        returns: "NEW",
        kind: Kind::State,
    },
    Fault {
        name: "a report does not end",
        trigger: "BEFORE UPDATE ON sdb_report FOR EACH ROW",
        body: "NEW.is_live := true;",
        returns: "NEW",
        kind: Kind::State,
    },
    Fault {
        name: "an `ok` ends the reports of all sources",
        trigger: "AFTER UPDATE ON sdb_report FOR EACH ROW WHEN (NOT NEW.is_live)",
        body: "UPDATE sdb_report SET is_live = false
            WHERE component_id = NEW.component_id AND is_live;",
        returns: "NULL",
        kind: Kind::DecidedOtherwise,
    },
    Fault {
        name: "updates of a component are swapped",
        trigger: "AFTER INSERT ON sdb_inbox FOR EACH STATEMENT",
        body: "UPDATE sdb_inbox a SET position = b.position, decided_at = b.decided_at
            FROM (SELECT id, position, decided_at, component_id FROM sdb_inbox) b
            WHERE a.component_id = b.component_id AND a.id <> b.id
                AND a.id IN (SELECT id FROM sdb_inbox ORDER BY position DESC LIMIT 2)
                AND b.id IN (SELECT id FROM sdb_inbox ORDER BY position DESC LIMIT 2);",
        returns: "NULL",
        kind: Kind::OutOfOrder,
    },
    Fault {
        name: "an update is lost",
        trigger: "AFTER INSERT ON sdb_inbox FOR EACH STATEMENT",
        body: "DELETE FROM sdb_inbox
            WHERE position = (SELECT max(position) FROM sdb_inbox) AND position % 3 = 0;",
        returns: "NULL",
        kind: Kind::Lost,
    },
    Fault {
        name: "an interval begins with the transaction",
        trigger: "BEFORE INSERT ON sdb_affected_change FOR EACH ROW",
        body: "IF NEW.began IS NOT NULL THEN
            NEW.began := least(NEW.began, now() AT TIME ZONE 'UTC'); END IF;",
        returns: "NEW",
        kind: Kind::Affected,
    },
    Fault {
        name: "an end is not noted",
        trigger: "BEFORE INSERT ON sdb_affected_change FOR EACH ROW",
        body: "IF NEW.began IS NULL AND NEW.components @> '{1}' THEN RETURN NULL; END IF;",
        returns: "NEW",
        kind: Kind::Affected,
    },
    Fault {
        name: "an interval goes on",
        trigger: "BEFORE UPDATE ON sdb_affected FOR EACH ROW",
        body: "IF NEW.component_id = 1 THEN RETURN NULL; END IF;",
        returns: "NEW",
        kind: Kind::Affected,
    },
    Fault {
        name: "an interval keeps its impact",
        trigger: "BEFORE INSERT ON sdb_affected FOR EACH ROW",
        body: "NEW.impact := least(NEW.impact, 1);",
        returns: "NEW",
        kind: Kind::Affected,
    },
];

async fn a_transaction_that_is_broken_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let system = simulated(&fixture).await?;
    let mut database = PgConnection::connect(&system.database_uri).await?;
    let mut histories = vec![full_history()];
    histories.extend(drawn(SEED + 1, 120)?);
    for Fault { name, trigger, body, returns, kind } in FAULTS {
        let (before, for_each) = trigger.split_once(" FOR EACH ").context("no level")?;
        let (_, table) = before.rsplit_once(' ').context("no table")?;
        let plant = format!(
            "CREATE OR REPLACE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF current_setting('application_name') = 'worker' THEN {body} END IF;
                RETURN {returns};
            END $$;
            CREATE TRIGGER a_fault {before} FOR EACH {for_each} EXECUTE FUNCTION break();"
        );
        sqlx::raw_sql(AssertSqlSafe(plant)).execute(&mut database).await?;
        let found = found(&system.database_uri, &histories, None, kind).await;
        let heal = format!("DROP TRIGGER a_fault ON {table}");
        sqlx::raw_sql(AssertSqlSafe(heal)).execute(&mut database).await?;
        found.with_context(|| format!("{name}: not found as {kind:?}"))?;
    }
    system.finish_with_logs()
}

/// Plays histories until something of this kind is found.
async fn found(
    uri: &str,
    histories: &[History],
    broken: Option<Broken>,
    kind: Kind,
) -> Result<RunVerdict> {
    let mut others = String::new();
    for history in histories {
        match record(uri, history, broken).await {
            Ok(played) => {
                let verdict = judge(&played.run);
                if verdict.of(kind).next().is_some() {
                    return Ok(verdict);
                }
                if let Err(error) = verdict.into_result() {
                    others = format!("{error:#}");
                }
            }
            // The fault itself may be in the way.
            Err(error) => others = format!("{error:#}"),
        }
    }
    anyhow::bail!("{} histories agree; the last thing found was {others}", histories.len())
}

async fn a_worker_that_is_broken_is_found(fixture: Arc<Fixture>) -> Result<()> {
    let system = simulated(&fixture).await?;
    let uri = &system.database_uri;
    for (broken, kind) in [
        (Broken::ParksEverything, Kind::ParkedUnasked),
        (Broken::AnswersOtherwise, Kind::AnsweredOtherwise),
    ] {
        let verdict = found(uri, &[full_history()], Some(broken), kind).await?;
        ensure!(verdict.of(kind).count() > 5, "{broken:?}: {verdict:?}");
    }
    for (broken, kind) in [
        (Broken::AcknowledgesEarly, Kind::Lost),
        (Broken::DropsTheLast, Kind::Lost),
        (Broken::SwapsTwo, Kind::OutOfOrder),
        (Broken::GivesOneId, Kind::Lost),
    ] {
        found(uri, &[full_history()], Some(broken), kind)
            .await
            .with_context(|| format!("{broken:?}: not found as {kind:?}"))?;
    }
    system.finish_with_logs()
}

async fn a_run_without_anything_fails(fixture: Arc<Fixture>) -> Result<()> {
    let system = simulated(&fixture).await?;
    let mut run = Run::default();
    run.expected.compares = true;
    ensure!(judge(&run).of(Kind::ComparedNothing).count() == 1, "an empty run");
    let mut run = record(&system.database_uri, &full_history(), None).await?.run;
    run.expected.compares = true;
    run.expected.broke = Some(0);
    let verdict = judge(&run);
    ensure!(verdict.of(Kind::ComparedNothing).count() == 0, "{verdict:?}");
    ensure!(verdict.of(Kind::BrokeNothing).count() == 1, "{verdict:?}");
    system.finish_with_logs()
}

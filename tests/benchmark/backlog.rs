//! Updates from a backlog, by one worker.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::System;
use nix::sys::signal::Signal;
use tokio::time::sleep;

use crate::{
    baselines,
    bench::{Bench, say, start_worker},
    history::{self, Whose},
    publisher::Publisher,
    report::{Figure, Row, Target},
    runs::{Changes, LoadRun, Runs},
    sequence::{STORMING, Sequence, WORSENING, close_all},
};

/// Components that no update is about.
const OTHER_COMPONENTS: u32 = 9_900;
/// Closed incidents of the components that updates are about.
const CLOSED: u32 = 20_000;
/// Longer than a worker may take for a backlog, or RabbitMQ for getting one.
const BACKLOG_LIMIT: Duration = Duration::from_secs(120);
/// Updates in one message of a storm.
const TOGETHER: usize = 100;
/// A commit takes so long on a slow disk, in µs (`commit_delay`).
const SLOW_COMMIT: u32 = 5_000;

/// From a backlog, by one worker: of single messages, and of envelopes, as a storm leaves them.
pub(crate) async fn drain(bench: &mut Bench) -> Result<()> {
    let backlog = bench.scale.backlog;
    for sequence in [Sequence::Repeating, Sequence::Changing] {
        let what = format!("one worker, a backlog of {backlog} {}", sequence.words());
        let together = format!("{what}, {TOGETHER} in each message");
        say(&what);
        let prepared = bench.prepared(&format!("drain_{}", sequence.word())).await?;
        let mut drain = Drain::start(prepared, sequence).await?;
        let (mut single, mut envelopes) = (Runs::default(), Runs::default());
        let mut commits = Runs::default();
        for _ in 0..bench.scale.runs {
            drain.run(backlog, &mut single).await?;
            drain.run_of(backlog, TOGETHER, &mut envelopes).await?;
            let database = &drain.system.database;
            commits.add(baselines::batch_commits(database, bench.scale.time).await?);
        }
        for (what, runs) in [(what, &single), (together, &envelopes)] {
            bench.note(&what, runs);
            bench.add(
                Row::rate(what, runs)?
                    .beside("PostgreSQL, rows in commits of 512", Figure::rate(&commits)?),
            );
        }
        drain.publisher.close().await?;
    }
    Ok(())
}

/// From a backlog, while commits take as long as on a slow disk.
pub(crate) async fn slow_disk(bench: &mut Bench) -> Result<()> {
    let backlog = bench.scale.backlog;
    let millis = SLOW_COMMIT / 1_000;
    let what =
        format!("one worker, a backlog of {backlog} updates, commits that take {millis} ms more");
    say(&what);
    let sequence = Sequence::Changing;
    let mut drain = Drain::start(bench.prepared("slow_disk").await?, sequence).await?;
    let (mut slow, mut fast) = (Runs::default(), Runs::default());
    for _ in 0..bench.scale.runs {
        // One transaction at a time commits here: without `commit_siblings` none would wait.
        let settings = format!(
            "ALTER SYSTEM SET commit_delay = {SLOW_COMMIT};
            ALTER SYSTEM SET commit_siblings = 0; SELECT pg_reload_conf()"
        );
        statements(&drain.system, &settings).await?;
        drain.run(backlog, &mut slow).await?;
        let settings = "ALTER SYSTEM RESET commit_delay;
            ALTER SYSTEM RESET commit_siblings; SELECT pg_reload_conf()";
        statements(&drain.system, settings).await?;
        drain.run(backlog, &mut fast).await?;
    }
    bench.note(&what, &slow);
    bench.add(
        Row::rate(what, &slow)?
            .beside("commits as the disk has them", Figure::rate(&fast)?)
            .target(Target::RatioAtLeast(0.6)),
    );
    drain.publisher.close().await
}

/// One after the other: some can't be part of a transaction.
async fn statements(system: &System, statements: &str) -> Result<()> {
    for statement in statements.split(';') {
        let statement = sqlx::AssertSqlSafe(statement.to_owned());
        sqlx::query(statement).execute(&system.database).await?;
    }
    Ok(())
}

/// From a backlog, among many components and incidents that stand and that no update is about, and
/// after many closed ones of persons that were about the same components.
pub(crate) async fn broad(bench: &mut Bench) -> Result<()> {
    let backlog = bench.scale.backlog;
    let what = format!(
        "one worker, a backlog of {backlog} updates, among {OTHER_COMPONENTS} other components \
         with {} incidents that stand, after {CLOSED} closed ones",
        OTHER_COMPONENTS + history::SYSTEM_INCIDENTS
    );
    say(&what);
    let (narrow, broad) = (bench.prepared("narrow").await?, bench.prepared("broad").await?);
    // In both, the system's incidents have others in them, and so stand at the end as at the beginning.
    history::add_others(&narrow, history::SYSTEM_INCIDENTS).await?;
    history::add_incidents(&broad, CLOSED, 1, 2, Whose::Persons).await?;
    history::add_others(&broad, OTHER_COMPONENTS).await?;
    history::settle(&narrow).await?;
    history::settle(&broad).await?;
    let mut narrow = Drain::start(narrow, Sequence::Repeating).await?;
    let mut broad = Drain::start(broad, Sequence::Repeating).await?;
    let (mut narrows, mut broads) = (Runs::default(), Runs::default());
    for _ in 0..bench.scale.runs {
        broad.run(backlog, &mut broads).await?;
        narrow.run(backlog, &mut narrows).await?;
    }
    bench.note(&what, &broads);
    bench.add(
        Row::rate(what, &broads)?
            .beside(
                format!("{} others, no closed ones", history::SYSTEM_INCIDENTS),
                Figure::rate(&narrows)?,
            )
            .target(Target::RatioAtLeast(0.9)),
    );
    narrow.publisher.close().await?;
    broad.publisher.close().await
}

/// From a backlog, beside the same without the triggers that record when components were affected.
pub(crate) async fn affected(bench: &mut Bench) -> Result<()> {
    let sequence = Sequence::Worsening;
    let backlog = bench.scale.backlog.min(3 * WORSENING as u64);
    let of = format!("one worker, a backlog of {backlog} {}", sequence.words());
    let what = format!("{of}, with the record of when components were affected");
    say(&what);
    let (with, without) = (bench.prepared("affected").await?, bench.prepared("unrecorded").await?);
    without.sql(DROP_TRIGGERS).await?;
    let mut with = Drain::start(with, sequence).await?;
    let mut without = Drain::start(without, sequence).await?;
    let (mut recorded, mut unrecorded) = (Runs::default(), Runs::default());
    let mut applied = Runs::default();
    // In turns, so that neither is always the first.
    for run in 0..bench.scale.runs {
        for is_recorded in [run % 2 == 0, run % 2 != 0] {
            if is_recorded {
                with.run(backlog, &mut recorded).await?;
                // What is left, and the end of its incidents, is applied before the next run, which must not pay for it.
                close_all(&with.system).await?;
                apply_record(&with.system, backlog, &mut applied).await?;
            } else {
                without.run(backlog, &mut unrecorded).await?;
                close_all(&without.system).await?;
            }
        }
    }
    bench.note(&what, &recorded);
    bench.note(&format!("{of}, without that record"), &unrecorded);
    bench.note("what was left of that record, applied afterwards", &applied);
    bench.add(
        Row::rate(what, &recorded)?
            .beside("without the record", Figure::rate(&unrecorded)?)
            .target(Target::RatioAtLeast(0.95)),
    );
    with.publisher.close().await?;
    without.publisher.close().await
}

/// Waits until all is recorded that is noted of when components were affected.
async fn apply_record(system: &System, updates: u64, runs: &mut Runs) -> Result<()> {
    let begin = Instant::now();
    let meter = crate::usage::Meter::start(system)?;
    while system.count("SELECT count(*) FROM sdb_affected_change").await? > 0 {
        ensure!(begin.elapsed() < BACKLOG_LIMIT, "the record is not applied");
        sleep(Duration::from_millis(100)).await;
    }
    runs.usage = runs.usage.plus(meter.stop()?);
    runs.add(LoadRun {
        requests: updates,
        seconds: begin.elapsed().as_secs_f64(),
        ..LoadRun::default()
    });
    Ok(())
}

const DROP_TRIGGERS: &str = "DO $$
    DECLARE
        ours record;
    BEGIN
        FOR ours IN SELECT tgname, tgrelid::regclass AS on_table FROM pg_trigger
            WHERE tgname LIKE 'sdb\\_affected\\_%'
        LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', ours.tgname, ours.on_table);
        END LOOP;
    END $$";

/// What reports cost: a batch where many stand of other components, and a storm that ends.
pub(crate) async fn reports(bench: &mut Bench) -> Result<()> {
    let backlog = bench.scale.backlog;
    let reports = 2 * backlog;
    let what =
        format!("one worker, a backlog of {backlog} updates, each a report, among {reports}");
    say(&what);
    let (few, many) = (bench.prepared("few_reports").await?, bench.prepared("many_reports").await?);
    history::add_reports(&many, reports).await?;
    let mut few = Drain::start(few, Sequence::Reported).await?;
    let mut many = Drain::start(many, Sequence::Reported).await?;
    let (mut fews, mut manys) = (Runs::default(), Runs::default());
    // In turns, so that neither is always the first.
    for run in 0..bench.scale.runs {
        let mut pair = [(&mut many, &mut manys), (&mut few, &mut fews)];
        pair.rotate_left(run % 2);
        for (drain, runs) in pair {
            drain.run(backlog, runs).await?;
        }
    }
    bench.note(&what, &manys);
    bench.note("the same, without any others", &fews);
    bench.add(
        Row::rate(what, &manys)?
            .beside("without any others", Figure::rate(&fews)?)
            .target(Target::RatioAtLeast(0.97)),
    );
    few.publisher.close().await?;
    many.publisher.close().await?;

    let storm = STORMING as u64;
    let what = format!("one worker, a storm that ends: {storm} `ok`, each of a component");
    say(&what);
    let mut drain = Drain::start(bench.prepared("storm").await?, Sequence::Storm).await?;
    let (mut begins, mut ends) = (Runs::default(), Runs::default());
    for _ in 0..bench.scale.runs {
        drain.run(storm, &mut begins).await?;
        drain.run(storm, &mut ends).await?;
    }
    bench.note(&what, &ends);
    bench.note("the updates with which it began", &begins);
    bench.add(
        Row::rate(what, &ends)?
            .beside("the updates with which it began", Figure::rate(&begins)?)
            .target(Target::RatioAtLeast(0.9)),
    );
    drain.publisher.close().await
}

/// One worker and what fills its queues while it is away.
struct Drain {
    system: System,
    publisher: Publisher,
    sequence: Sequence,
}

impl Drain {
    async fn start(mut system: System, sequence: Sequence) -> Result<Self> {
        sequence.prepare(&system).await?;
        // It has been there before a backlog, and its tables are warm.
        start_worker(&mut system).await?;
        let publisher = Publisher::connect(&system, sequence).await?;
        Ok(Self { system, publisher, sequence })
    }

    async fn run(&mut self, backlog: u64, runs: &mut Runs) -> Result<()> {
        self.run_of(backlog, 1, runs).await
    }

    /// The same with so many updates in each message.
    async fn run_of(&mut self, backlog: u64, in_each: usize, runs: &mut Runs) -> Result<()> {
        let mut worker = self.system.workers.pop().context("there is no worker")?;
        worker.signal(Signal::SIGTERM)?;
        let status = worker.ended().await?;
        ensure!(status.success(), "the worker ended with {status}");
        if matches!(self.sequence, Sequence::Changing | Sequence::Worsening) {
            close_all(&self.system).await?;
            self.publisher.rewind();
        }
        let before = Changes::position(&self.system).await?;
        self.publisher.fill(backlog, in_each).await?;
        // Each run begins like the others, and none has the checkpoint of what another one wrote.
        self.system.sql("CHECKPOINT").await?;

        start_worker(&mut self.system).await?;
        let begin = Instant::now();
        let meter = crate::usage::Meter::start(&self.system)?;
        while Changes::position(&self.system).await? < before + backlog as i64 {
            ensure!(begin.elapsed() < BACKLOG_LIMIT, "the backlog is not drained");
            sleep(Duration::from_millis(5)).await;
        }
        let seconds = begin.elapsed().as_secs_f64();
        runs.usage = runs.usage.plus(meter.stop()?);
        let parked = self.system.count("SELECT count(*) FROM sdb_parked").await?;
        ensure!(parked == 0, "{parked} updates are parked");
        runs.changes = runs.changes.plus(Changes::since(&self.system, before).await?);
        runs.add(LoadRun { requests: backlog, seconds, ..LoadRun::default() });
        Ok(())
    }
}

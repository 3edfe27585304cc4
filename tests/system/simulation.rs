//! Histories drawn at random, and those that once failed: see [`harness::simulation`].

use std::sync::Arc;

use anyhow::{Context, Result};
use harness::{
    Fixture, System,
    simulation::{Edit, End, Flaw, History, Hold, Pick, Step, Update, play, play_many, prepare},
    tests,
};
use shared::{
    domain::{condition::Condition, impact::Impact},
    wire::message::Report,
};
use tokio::{runtime::Handle, task::spawn_blocking};

tests!(
    what_is_simulated_agrees_with_the_model,
    histories_that_once_failed_or_are_rarely_drawn_agree_too
);

/// The same histories in every run, so that a change that breaks something breaks the run that has
/// it. `cargo run -p tests --bin simulation` draws others, and many more.
const SEED: u64 = 1;
const HISTORIES: u32 = 150;

async fn what_is_simulated_agrees_with_the_model(fixture: Arc<Fixture>) -> Result<()> {
    let system = System::bare(&fixture).await?;
    prepare(&system.database_uri).await?;
    let (uri, runtime) = (system.database_uri.clone(), Handle::current());
    spawn_blocking(move || play_many(&uri, SEED, HISTORIES, &runtime)).await??;
    system.finish_with_logs()
}

async fn histories_that_once_failed_or_are_rarely_drawn_agree_too(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let update = |component, impact: Impact, flaw| Update {
        component,
        condition: impact.into(),
        report: None,
        title: "Incident",
        key: None,
        flaw,
    };
    let post = |flaw| Step::Post(update(1, Impact::Minor, flaw));
    let work = || Step::Work(Pick(0), 9, End::Done);
    let toggle = || Step::Edit(Edit::Toggle(1));
    let covered_by = |first: bool, second: bool, impact| {
        let kinds = vec![(impact, first), (impact, second)];
        vec![Step::Edit(Edit::Cover(vec![1], kinds)), post(None), work()]
    };
    let beside = |edit, polls, hold| Step::Beside(Pick(0), 9, edit, polls, hold);
    let mut histories = vec![
        // Decided, and parked as given up by RabbitMQ, in one batch.
        vec![post(None), Step::GiveUp(Pick(0)), Step::Work(Pick(0), 2, End::Done)],
        // Parked twice: because it can't be read, and because RabbitMQ gave it up.
        vec![
            post(Some(Flaw::Version)),
            Step::GiveUp(Pick(0)),
            Step::Work(Pick(0), 1, End::Done),
            Step::Work(Pick(0), 1, End::Done),
        ],
        // Parked while its component was gone: redelivered it stays parked, requeued it is decided.
        vec![
            post(None),
            toggle(),
            work(),
            toggle(),
            Step::Redeliver(Pick(0)),
            work(),
            Step::PutBack,
            work(),
        ],
        // Of several maintenances, with and without an end, the oldest covers the component.
        covered_by(true, false, None),
        covered_by(false, true, None),
        covered_by(true, true, None),
        // A manual incident with an end is over; of those without one, the oldest covers it.
        covered_by(true, false, Some(Impact::Outage)),
        covered_by(false, false, Some(Impact::Outage)),
    ];
    // An operator takes the incident over that a batch is about, wherever the batch is, and holds it.
    for polls in 0..12 {
        for hold in [Hold::Commit, Hold::Held, Hold::RollBack] {
            let outage = Step::Post(update(2, Impact::Outage, None));
            histories.push(vec![
                post(None),
                work(),
                post(None),
                outage,
                beside(Edit::TakeOver(Pick(0), false), polls, hold),
                post(None),
                work(),
            ]);
        }
    }
    // An `ok`, wherever an operator takes its incident over or its component away; and what comes after it.
    let says = |condition| {
        let report = Some(Report { source: "a".to_owned(), ..Report::default() });
        Step::Post(Update { condition, report, ..update(1, Impact::Minor, None) })
    };
    for polls in 0..12 {
        for edit in [Edit::TakeOver(Pick(0), true), Edit::Toggle(1)] {
            histories.push(vec![
                says(Condition::Impact(Impact::Minor)),
                work(),
                says(Condition::Ok),
                beside(edit.clone(), polls, Hold::Commit),
                says(Condition::Impact(Impact::Major)),
                beside(edit, polls, Hold::Held),
                toggle(),
                says(Condition::Ok),
                work(),
                Step::PutBack,
                work(),
            ]);
        }
    }
    // Envelopes, cut at every place: the worker goes on behind the cut, or dies there and all comes again.
    let flaws = [Flaw::Unreadable, Flaw::Version, Flaw::GivenUp, Flaw::Refused].map(Some);
    for flaw in [None].into_iter().chain(flaws) {
        let all = |whole| {
            let updates = [Impact::Minor, Impact::Major, Impact::Outage, Impact::Minor];
            let updates = updates.into_iter().zip([None, flaw, None, None]);
            let updates = updates.map(|(impact, flaw)| update(1, impact, flaw)).collect();
            Step::PostMany(updates, whole)
        };
        for cut in 1..5 {
            for end in [End::Done, End::KilledAfterCommit] {
                for whole in [None, flaw] {
                    histories.push(vec![
                        post(None),
                        all(whole),
                        post(flaw),
                        Step::Work(Pick(0), cut, End::Done),
                        Step::Work(Pick(0), cut, end),
                        Step::Join,
                        work(),
                        Step::PutBack,
                        work(),
                    ]);
                }
            }
        }
    }
    let system = System::bare(&fixture).await?;
    prepare(&system.database_uri).await?;
    for history in histories {
        let history = History(history);
        play(&system.database_uri, &history).await.with_context(|| format!("{history:#?}"))?;
    }
    system.finish_with_logs()
}

//! Histories drawn at random, and those that once failed: see [`harness::simulation`].

use std::sync::Arc;

use anyhow::Result;
use harness::{
    Fixture, System,
    simulation::{Edit, End, Flaw, History, Pick, Step, play, play_many, prepare},
    tests,
};
use shared::impact::Impact;
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
    system.finish_with_parked()
}

async fn histories_that_once_failed_or_are_rarely_drawn_agree_too(
    fixture: Arc<Fixture>,
) -> Result<()> {
    let post = |flaw| Step::Post {
        component: 1,
        impact: Impact::Minor,
        title: "Incident",
        key: None,
        flaw,
    };
    let work = || Step::Work(Pick(0), 9, End::Done);
    let toggle = || Step::Edit(Edit::Toggle(1));
    let histories = [
        // Decided, and parked as given up by RabbitMQ, in one batch.
        vec![post(None), Step::GiveUp(Pick(0)), Step::Work(Pick(0), 2, End::Done)],
        // Parked twice: because it can't be read, and because RabbitMQ gave it up.
        vec![
            post(Some(Flaw::Version)),
            Step::GiveUp(Pick(0)),
            Step::Work(Pick(0), 1, End::Done),
            Step::Work(Pick(0), 1, End::Done),
        ],
        // Parked while its component was gone: delivered again it stays parked, put back it is decided.
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
    ];
    let system = System::bare(&fixture).await?;
    prepare(&system.database_uri).await?;
    for history in histories {
        play(&system.database_uri, &History(history)).await?;
    }
    system.finish_with_parked()
}

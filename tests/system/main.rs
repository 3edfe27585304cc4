//! Tests of the whole system: real processes on a real PostgreSQL and a real RabbitMQ, which this
//! program starts for itself. Each test has a database and a virtual host of its own.

mod administration;
mod answers;
mod burst;
mod catalogue;
mod clocks;
mod conformance;
mod connections;
mod deployment;
mod documents;
mod encodings;
mod failures;
mod files;
mod foreign_edits;
mod half_close;
mod held_rows;
mod idempotency;
mod inbox;
mod keep_alive;
mod layout;
mod lists;
mod metrics;
mod missing_queues;
mod openapi;
mod operations;
mod parking;
mod paths;
mod policies;
mod printing;
mod put_back;
mod python_api;
mod recovery;
mod requests;
mod reshape;
mod rights;
mod rolling_restart;
mod run;
mod runbook;
mod settings;
mod simulation;
mod spreading;
mod standby;
mod stopping;
mod strangers;
mod takeover;
mod times;
mod tls;
mod tour;
mod traces;
mod updates;
mod verdict;
mod waiting;
mod wire;
mod worked_example;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};

use harness::Harness;

/// Tests at once: they mostly wait.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let tests = [
        administration::tests(),
        answers::tests(),
        burst::tests(),
        catalogue::tests(),
        clocks::tests(),
        conformance::tests(),
        connections::tests(),
        deployment::tests(),
        documents::tests(),
        encodings::tests(),
        failures::tests(),
        files::tests(),
        foreign_edits::tests(),
        half_close::tests(),
        held_rows::tests(),
        idempotency::tests(),
        inbox::tests(),
        keep_alive::tests(),
        layout::tests(),
        lists::tests(),
        metrics::tests(),
        missing_queues::tests(),
        openapi::tests(),
        operations::tests(),
        parking::tests(),
        paths::tests(),
        policies::tests(),
        printing::tests(),
        put_back::tests(),
        python_api::tests(),
        recovery::tests(),
        requests::tests(),
        reshape::tests(),
        rights::tests(),
        rolling_restart::tests(),
        run::tests(),
        run::packages_tests(),
        runbook::tests(),
        settings::tests(),
        simulation::tests(),
        spreading::tests(),
        standby::tests(),
        stopping::tests(),
        strangers::tests(),
        takeover::tests(),
        times::tests(),
        tls::tests(),
        tour::tests(),
        traces::tests(),
        traces::strangers::tests(),
        updates::tests(),
        updates::limits::tests(),
        updates::servers::tests(),
        verdict::tests(),
        waiting::tests(),
        wire::tests(),
        worked_example::tests(),
    ];
    let harness = if arguments.list {
        None
    } else {
        match Harness::start() {
            Ok(harness) => Some(Arc::new(harness)),
            Err(error) => {
                eprintln!("the tests can't start: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    };
    let trials = tests.into_iter().flatten().map(|test| {
        let harness = harness.clone();
        Trial::test(test.name, move || match harness {
            Some(harness) => harness.run(&test),
            None => Err("there are no servers to test on".into()),
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(harness) = harness.and_then(Arc::into_inner)
        && let Err(error) = harness.stop()
    {
        eprintln!("the tests leave something behind: {error:#}");
        return ExitCode::FAILURE;
    }
    conclusion.exit_code()
}

//! Tests of the whole system: real processes on a real PostgreSQL and a real RabbitMQ, which this
//! program starts for itself. Each test has a database and a virtual host of its own.

mod alerts;
mod api;
mod clients;
mod cluster;
mod failures;
mod lists;
mod operations;
mod pages;
mod parking;
mod project;
mod servers;
mod simulation;
mod telemetry;
mod verdict;
mod workers;

use std::{process::ExitCode, sync::Arc};

use libtest_mimic::{Arguments, Trial};

use harness::{Harness, Test};

/// Tests at once: they mostly wait.
const THREADS: usize = 4;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    let tests = [
        alerts::tests(),
        api::tests(),
        clients::tests(),
        failures::tests(),
        lists::tests(),
        operations::tests(),
        pages::tests(),
        parking::tests(),
        project::tests(),
        servers::tests(),
        simulation::tests(),
        telemetry::tests(),
        verdict::tests(),
        workers::tests(),
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
    let tests = spread(tests.into_iter().flatten().collect(), cluster::tests());
    let trials = tests.into_iter().map(|test| {
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

/// Puts some tests between others at even distances. Those on the cluster run one after the other: side by
/// side, they would keep the other tests waiting.
fn spread(mut tests: Vec<Test>, apart: Vec<Test>) -> Vec<Test> {
    let distance = tests.len() / apart.len().max(1);
    for (place, test) in apart.into_iter().enumerate() {
        tests.insert(place * (distance + 1), test);
    }
    tests
}

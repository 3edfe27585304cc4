//! Starts the whole system on this machine: `cargo run`.

mod runner;

use std::{
    io::{self, Write},
    process::ExitCode,
};

use deploy::say;
use runner::{Arguments, Stop};

fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            writeln!(io::stdout(), "{}", runner::HELP).ok();
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            say(&format!("{error:#}; `cargo run -- --help` shows the options"));
            return ExitCode::from(2);
        }
    };
    let outcome = Stop::on_signals().and_then(|stop| {
        let outcome = runner::run(&arguments, &stop);
        // A failure after Ctrl-C, for example of the build that received it, too, is not an error.
        if stop.is_asked() { Ok(()) } else { outcome }
    });
    match outcome {
        Ok(()) => {
            say("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

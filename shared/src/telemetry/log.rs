//! Logging.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io::IsTerminal,
    panic::PanicHookInfo,
};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::settings::{Settings, SettingsError, invalid};

/// Initializes logging to standard error, according to the settings.
///
/// # Errors
/// When a setting can't be used.
pub fn init(settings: &Settings) -> Result<(), SettingsError> {
    let level = settings.required("SDB_LOG")?;
    let refused = || {
        invalid("SDB_LOG", &level, "a level such as `info` or a filter such as `info,worker=debug`")
    };
    // An unknown word would be taken for the name of a module.
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    if level.split(',').any(|part| !part.contains('=') && !is_level(part)) {
        return Err(refused());
    }
    // The errors that these libraries log repeat ours, with less detail or too often.
    let quiet = "lapin=off,sqlx_core::pool::inner=off";
    let filter = EnvFilter::builder().parse(format!("{quiet},{level}")).map_err(|_| refused())?;
    let format = settings.required("SDB_LOG_FORMAT")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A closed log must not stop the program, which would panic while reporting it.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format.as_str() {
        "json" => log.json().flatten_event(true).init(),
        "text" => log.init(),
        _ => return Err(invalid("SDB_LOG_FORMAT", &format, "`text` or `json`")),
    }
    std::panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// Logs a panic in the format of the log instead of Rust's plain text, with the backtrace if
/// `RUST_BACKTRACE=1`.
fn log_panic(panic: &PanicHookInfo<'_>) {
    let reason = panic.payload_as_str().unwrap_or("no text");
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    tracing::error!(reason, location, backtrace, "a task panicked");
}

/// An error with its causes, in one line. A cause that is contained in the preceding text is omitted.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let causes = std::iter::successors(error.source(), |error| error.source());
    for cause in causes.map(ToString::to_string) {
        if !line.ends_with(&cause) {
            line.push_str(": ");
            line.push_str(&cause);
        }
    }
    line
}

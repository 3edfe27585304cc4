//! Logging.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use crate::settings::{Settings, SettingsError, invalid};

/// Starts the log on standard error, as the settings say.
///
/// # Errors
/// When a setting can't be used.
pub fn init(settings: &Settings) -> Result<(), SettingsError> {
    let level = settings.required("SDB_LOG")?;
    let refused = || {
        invalid("SDB_LOG", &level, "a level such as `info` or a filter such as `info,worker=debug`")
    };
    // A word that is no level would be taken for the name of a module.
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    if level.split(',').any(|part| !part.contains('=') && !is_level(part)) {
        return Err(refused());
    }
    // The errors that these log themselves repeat ours, with less of a reason or too often.
    let quiet = "lapin=off,sqlx_core::pool::inner=off";
    let filter = EnvFilter::builder().parse(format!("{quiet},{level}")).map_err(|_| refused())?;
    let format = settings.required("SDB_LOG_FORMAT")?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match format.as_str() {
        "json" => log.json().flatten_event(true).init(),
        "text" => log.init(),
        _ => return Err(invalid("SDB_LOG_FORMAT", &format, "`text` or `json`")),
    }
    Ok(())
}

/// An error with its causes, in one line. A cause that the text before it repeats is left out.
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

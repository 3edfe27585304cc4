//! What operators do: prepare databases, set settings, apply catalogues, run commands.

mod administration;
mod catalogue;
mod databases;
mod policies;
mod printing;
mod rights;
pub(crate) mod run;
mod settings;
mod takeover;
mod times;

use harness::tests_of;

tests_of!(
    administration,
    catalogue,
    databases,
    policies,
    printing,
    rights,
    run,
    run::packages,
    settings,
    takeover,
    times
);

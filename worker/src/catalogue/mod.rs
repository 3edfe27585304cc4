//! Applies a catalogue file: the components that updates may name.
//!
//! The file has the format of the Python dashboard, with the same meaning (`file`). For
//! each entry, the component that it refers to is found (`difference`), and differences are written in a
//! few statements (`apply`).

mod apply;
mod difference;
mod file;

pub(crate) use self::{
    apply::{ApplyOptions, apply},
    difference::{CataloguePlan, Changed},
    file::{CatalogueEntry, CatalogueFile, parse},
};

/// Why a catalogue can't be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    /// It is not YAML of the required structure.
    #[error("the catalogue is not of the form `components: [{{name: …, attributes: {{…}}}}]`: {0}")]
    Malformed(String),
    /// One of its entries is invalid.
    #[error("line {line}: {reason}")]
    Invalid {
        /// The file's line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// Components that the file does not have can't be removed.
    #[error("these can't be removed, because they are in incidents: {0}; nothing was applied")]
    InIncidents(String),
    /// Components can't be renamed while they have active incidents or maintenances.
    #[error(
        "these can't be renamed while they are in active incidents or maintenances: {0}; nothing was \
        applied"
    )]
    Active(String),
    /// Other transactions changed components during each attempt.
    #[error("other transactions changed components each time; nothing was applied: try again")]
    Contended,
    /// Our own tables are missing.
    #[error("the database is not prepared: run `worker migrate`")]
    Unprepared,
    /// The database failed; nothing was applied.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

//! Where a server's data comes from.

use sqlx::{Row, postgres::PgRow};

/// Which cluster a server belongs to, and how often a standby of that was promoted. A standby has no
/// timeline of its own.
pub(in crate::database) const ORIGIN: &str =
    "(SELECT system_identifier::text FROM pg_control_system()),
    CASE WHEN pg_is_in_recovery() THEN ''
        ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END";

/// The columns of [`ORIGIN`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::database) struct Origin {
    pub(in crate::database) cluster: String,
    /// None of a standby.
    pub(in crate::database) timeline: Option<u32>,
}

impl Origin {
    pub(in crate::database) fn read(
        row: &PgRow,
        places: &mut impl Iterator<Item = usize>,
    ) -> Result<Self, sqlx::Error> {
        let mut text = || row.try_get::<String, _>(places.next().unwrap_or_default());
        let (cluster, timeline) = (text()?, text()?);
        Ok(Self { cluster, timeline: u32::from_str_radix(&timeline, 16).ok() })
    }
}

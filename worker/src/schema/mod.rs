//! The tables: `migrate` prepares a database, `adopt` extends the Python dashboard's tables, `detach`
//! undoes that. The DDL and the queries of PostgreSQL's catalogs for it are here; all other SQL is in
//! `store`.

mod adopt;
mod backfill_affected;
mod detach;
mod migrate;

pub use self::{detach::detach, migrate::migrate};

//! The tables: `migrate` prepares a database, `adopt` adds to the Python dashboard's tables, `detach` takes
//! that off again. Its DDL, and the statements that look at catalogues of PostgreSQL for it, are here;
//! all other SQL is in `store`.

mod adopt;
mod detach;
mod migrate;

pub use self::{detach::detach, migrate::migrate};

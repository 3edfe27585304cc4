//! Connections of both programs to PostgreSQL: its address, the options of a session, their verification.

pub mod components;
mod connect;
mod connection;
mod hosts;
pub mod parked;
mod servers;
mod session;
pub mod sqlstate;
pub mod standbys;
mod uri;

pub use self::{
    connect::{BY_INDEX, ConnectOptions, connect_options, contradiction},
    connection::Database,
    servers::{Servers, Unfit},
    session::{ConnectError, SessionError},
    sqlstate::lacks_characters,
};

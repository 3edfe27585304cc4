//! Asks a server whether it is a primary.

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, PgConnection, Row, postgres::PgConnectOptions, raw_sql,
};
use tokio::time::timeout;

use super::{ORIGIN, Origin, SERVER_LIMIT, Server, Unfit};
use crate::telemetry::chain;

/// Its host and port, for people; of a socket its folder.
pub(super) fn name(connect: &PgConnectOptions) -> String {
    let port = connect.get_port();
    match connect.get_socket() {
        Some(folder) => format!("{} (port {port})", folder.display()),
        None if connect.get_host().contains(':') => format!("[{}]:{port}", connect.get_host()),
        None => format!("{}:{port}", connect.get_host()),
    }
}

/// Asks a server in the given session or in a new one; returns the session if it can be used again.
pub(super) async fn probe(
    server: Server,
    session: Option<PgConnection>,
) -> (Server, Option<PgConnection>, Result<Origin, Unfit>) {
    match timeout(SERVER_LIMIT, ask(&server, session)).await {
        Ok(Ok((session, ProbeAnswer { is_read_only: false, origin }))) => {
            (server, Some(session), Ok(origin))
        }
        Ok(Ok((session, ProbeAnswer { is_read_only: true, origin }))) => match origin.timeline {
            // Only of this session, perhaps.
            Some(_) => (server, None, Err(Unfit::ReadOnly)),
            None => (server, Some(session), Ok(origin)),
        },
        Ok(Err(error)) => (server, None, Err(Unfit::Failed(chain(&error)))),
        Err(_) => (server, None, Err(Unfit::Silent)),
    }
}

struct ProbeAnswer {
    is_read_only: bool,
    origin: Origin,
}

async fn ask(
    server: &Server,
    session: Option<PgConnection>,
) -> Result<(PgConnection, ProbeAnswer), sqlx::Error> {
    if let Some(mut session) = session
        && let Ok(answer) = question(&mut session).await
    {
        return Ok((session, answer));
    }
    // The time limit is the report about a slow answer.
    let mut session = server.connect.clone().disable_statement_logging().connect().await?;
    let answer = question(&mut session).await?;
    Ok((session, answer))
}

async fn question(session: &mut PgConnection) -> Result<ProbeAnswer, sqlx::Error> {
    let statement = format!("SELECT current_setting('transaction_read_only'), {ORIGIN}");
    let row = raw_sql(AssertSqlSafe(statement)).fetch_one(session).await?;
    let is_read_only = row.try_get::<String, _>(0)? == "on";
    Ok(ProbeAnswer { is_read_only, origin: Origin::read(&row, &mut (1..))? })
}

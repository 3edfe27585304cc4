//! The gateway's command line.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand, builder::NonEmptyStringValueParser};
use gateway::{
    auth::issue,
    cli::mapping::{self, MappingCommand},
    config::{AuthConfig, Config},
    server,
};
use shared::{
    http::{admin, health},
    process::{output, stop_signal, supervise},
    settings::Settings,
    telemetry::{self, traces},
    wire::message::is_source,
};

/// Takes status updates over HTTP and shows incidents. Settings are environment variables;
/// docs/reference.md lists them.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM or SIGINT; a second one ends at once.
    Run,
    /// Check local liveness, at SDB_ADMIN_ADDRESS or else at SDB_BIND; exits 0 or 1.
    Health {
        /// Check readiness instead: whether it should receive requests.
        #[arg(long)]
        ready: bool,
    },
    /// Print a token for a client, signed with SDB_SECRET_KEY.
    Token {
        /// Who it is for: the value of the claim.
        #[arg(long, default_value = "monitor", value_parser = NonEmptyStringValueParser::new())]
        client: String,
        /// The source of its updates that name none, and of its alerts: the claim `sub`; without this, the client.
        /// It must differ from sender to sender, such as each Prometheus of a pair; the Alertmanagers of one
        /// cluster share one.
        #[arg(long, value_parser = source)]
        source: Option<String>,
        /// Days after which it expires; without this it never does.
        #[arg(long)]
        days: Option<u32>,
    },
    /// How alerts are mapped to components.
    #[command(subcommand)]
    Mapping(MappingCommand),
}

#[tokio::main]
async fn main() -> ExitCode {
    match command(Arguments::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(format_args!("gateway: {}", telemetry::chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

async fn command(command: Command) -> Result<()> {
    let settings = Settings::from_environment();
    match command {
        Command::Run => {
            telemetry::init(&settings)?;
            settings.unused().log();
            let config = Config::from_settings(&settings)?;
            let (broker, database) = (config.broker.address(), config.database.address());
            traces::start("status-dashboard-gateway", broker, database)?;
            let server = server::build(config, stop_signal::token()?).await?;
            let served = server.run(&settings).await;
            traces::flush().await;
            served?;
            supervise::outcome()?;
            tracing::info!("stopped");
        }
        Command::Health { ready } => {
            let path = if ready { "/readyz" } else { "/healthz" };
            let address = match admin::address(&settings)? {
                Some(address) => address,
                None => Config::bind(&settings)?,
            };
            output::line(health::ask(address, path).await?)?;
        }
        Command::Token { client, source, days } => {
            let config = AuthConfig::from_settings(&settings)?;
            let expires = days.map(days_from_now).transpose()?;
            output::line(issue::make(
                &config,
                &client,
                source.as_ref().unwrap_or(&client),
                expires,
            )?)?;
        }
        Command::Mapping(command) => output::line(mapping::run(command, &settings).await?)?,
    }
    Ok(())
}

/// A text that can be a source.
fn source(text: &str) -> Result<String, &'static str> {
    if is_source(text) {
        Ok(text.to_owned())
    } else {
        Err("a source has 1 to 255 characters, none a control character")
    }
}

/// That many days from now, since 1970.
#[expect(clippy::disallowed_methods, reason = "an operator's command counts from the present")]
fn days_from_now(days: u32) -> Result<Duration> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(now + Duration::from_secs(u64::from(days) * 86_400))
}

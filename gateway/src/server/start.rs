//! Binds the addresses, and starts all parts of the gateway.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    amqp::topology::{Topology, TopologyError},
    database::ConnectOptions,
    http::admin::{self, AdminError},
    process::{service_manager, supervise},
    settings::Settings,
};
use tokio::{
    net::TcpListener,
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    listener::Listener,
    open_files::{self, FilesError},
    router::{AdminPlacement, admin_router, router},
};
use crate::{
    api::health::Readiness,
    config::Config,
    gateway::App,
    loaded_mapping::{LoadedMapping, MappingError},
};

/// A gateway with bound addresses.
pub struct Server {
    listener: Listener,
    /// The time limit for idle connections.
    keep_alive: Duration,
    /// For health and metrics, if they have their own address.
    admin: Option<TcpListener>,
    app: Arc<App>,
    database: ConnectOptions,
    /// SIGHUP, on which the mapping of alerts is read again.
    hangup: Signal,
}

/// Why a gateway does not serve.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The address for clients can't be bound.
    #[error("SDB_BIND: {address} can't be served")]
    Address {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The address for health and metrics can't be bound.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// There is no room for connections.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The mapping of alerts can't be used.
    #[error("SDB_ALERT_MAPPING")]
    Mapping(#[from] MappingError),
    /// The system does not let SIGHUP be handled.
    #[error("SIGHUP can't be handled")]
    Hangup(#[source] std::io::Error),
}

/// Binds the addresses; [`Server::run`] serves them.
///
/// # Errors
/// When the mapping of alerts can't be used, an address can't be bound, or the limit of open files is too low.
pub async fn build(mut config: Config, stop: CancellationToken) -> Result<Server, BuildError> {
    config.auth.warn();
    let hangup = signal(SignalKind::hangup()).map_err(BuildError::Hangup)?;
    let mapping = LoadedMapping::new(config.alert_mapping.clone())?;
    let connections = open_files::connections(config.limits)?;
    // Readers of events get a part of what there is.
    config.limits.connections = connections;
    let address = config.bind;
    let refused = |error| BuildError::Address { address, error };
    let listener = Listener::bind(address, connections).map_err(refused)?;
    tracing::info!(address = %listener.address().map_err(refused)?, "serving");
    let admin = match config.admin {
        Some(address) => Some(admin::bind(address).await?),
        None => None,
    };
    let (keep_alive, database) = (config.limits.keep_alive, config.database.clone());
    let app = Arc::new(App::new(config, mapping, stop));
    Ok(Server { listener, keep_alive, admin, app, database, hangup })
}

impl Server {
    /// Serves until the token of [`build`] is cancelled, then lets requests in progress finish.
    ///
    /// # Errors
    /// When the database is not prepared, or its topology is not the settings'.
    pub async fn run(mut self, settings: &Settings) -> Result<(), TopologyError> {
        let app = self.app.clone();
        let admin = self.admin.take().map(|listener| {
            let serving = admin::serve(listener, admin_router(app.clone()));
            AbortOnDropHandle::new(supervise::keep("health and metrics", serving))
        });
        let placement = match admin {
            Some(_) => AdminPlacement::Separate,
            None => AdminPlacement::Shared,
        };
        let router = router(app.clone(), placement);
        let starting = app.clone();
        service_manager::report(move || {
            let app = starting.clone();
            async move { Readiness::of(&app).await.ready() }
        });
        let database = self.database.clone();
        let linking = async {
            let recorded = Topology::read_once_up(&database, settings).await?;
            let publisher = app.publisher.clone();
            publisher.keep_linked(app.answers.clone(), recorded).await;
            Ok(())
        };
        let upkeep = app.catalogue.keep_fresh();
        let reloading = app.mapping.reload_on(self.hangup);
        let watching = database.servers().clone().watch();
        tokio::select! {
            // The link stays up while requests finish; it ends only with an error.
            ended = linking => return ended,
            () = upkeep => {}
            () = reloading => {}
            () = watching => {}
            () = app.live.watch() => {}
            () = self.listener.serve(router, self.keep_alive, app.stops()) => {}
        }
        app.publisher.close().await;
        drop(admin);
        Ok(())
    }
}

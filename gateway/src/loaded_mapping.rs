//! The mapping of alerts in use: read from its file at the start, and again on SIGHUP.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use shared::{
    telemetry::{chain, metrics::GATEWAY},
    yaml::YamlError,
};
use tokio::{signal::unix::Signal, task::spawn_blocking};

use crate::alertmanager::{alert_to_update::Mapping, mapping_file};

/// Why a mapping file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum MappingError {
    /// It can't be read.
    #[error("{} can't be read", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// Something in it can't be used.
    #[error("{}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What, and in which line.
        #[source]
        error: YamlError,
    },
}

/// Reads a mapping file, or the default mapping where there is none.
///
/// # Errors
/// When the file can't be used.
pub(crate) fn read(path: Option<&Path>) -> Result<Mapping, MappingError> {
    let Some(path) = path else { return Ok(mapping_file::default_mapping()) };
    let content = fs::read_to_string(path)
        .map_err(|error| MappingError::File { path: path.to_owned(), error })?;
    mapping_file::parse(&content)
        .map_err(|error| MappingError::Content { path: path.to_owned(), error })
}

/// The mapping in use, and its file.
pub(crate) struct LoadedMapping {
    /// None: the default mapping applies.
    path: Option<PathBuf>,
    current: ArcSwap<Mapping>,
}

impl Default for LoadedMapping {
    /// The default mapping, without a file.
    fn default() -> Self {
        Self { path: None, current: ArcSwap::from_pointee(mapping_file::default_mapping()) }
    }
}

impl LoadedMapping {
    /// Reads the mapping for the first time.
    ///
    /// # Errors
    /// When the file can't be used.
    pub(crate) fn new(path: Option<PathBuf>) -> Result<Self, MappingError> {
        let current = ArcSwap::from_pointee(read(path.as_deref())?);
        GATEWAY.alert_mapping_loaded.set(1);
        Ok(Self { path, current })
    }

    /// The mapping as it is now.
    pub(crate) fn get(&self) -> Arc<Mapping> {
        self.current.load_full()
    }

    /// Reads the file again whenever the signal comes. If it can't be used, the last good mapping stays.
    pub(crate) async fn reload_on(&self, mut signal: Signal) {
        while signal.recv().await.is_some() {
            self.reload().await;
        }
    }

    async fn reload(&self) {
        let path = self.path.clone();
        let reading = spawn_blocking(move || read(path.as_deref())).await;
        match reading.map_err(|error| chain(&error)).and_then(|read| read.map_err(|e| chain(&e))) {
            Ok(mapping) => {
                tracing::info!(rules = mapping.rules.len(), "alert mapping read again");
                self.current.store(Arc::new(mapping));
                GATEWAY.alert_mapping_loaded.set(1);
            }
            Err(reason) => {
                tracing::error!(reason, "the alert mapping can't be used: the last good one stays");
                GATEWAY.alert_mapping_loaded.set(0);
            }
        }
    }
}

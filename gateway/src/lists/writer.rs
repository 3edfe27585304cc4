//! Passes a list on in pieces while it is written.

use std::{
    io::{self, Write},
    mem,
    sync::Arc,
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures_util::future::BoxFuture;
use sqlx::{PgConnection, Postgres, pool::PoolConnection};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Instant, timeout},
};

use crate::{
    http::content_coding::Coding,
    store::{pools::Pool, version::Version},
};

/// Size of a piece in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Maximum number of bytes written ahead of the reader, until more are permitted.
const AHEAD_BYTES: usize = 2 * CHUNK_BYTES;
/// Total time for which a list waits for its reader. Meanwhile its snapshot prevents PostgreSQL from
/// vacuuming dead rows.
const READER_LIMIT: Duration = Duration::from_secs(10);

/// Writes a list in pieces.
pub(crate) struct ListWriter {
    plain: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    chunks: mpsc::UnboundedSender<Result<Chunk, ListError>>,
    /// One permit for each KiB that may be written ahead.
    ahead: Arc<Semaphore>,
    /// What is left of [`READER_LIMIT`].
    patience: Duration,
}

/// A piece of a list. A list without the final piece was cut off.
pub(super) enum Chunk {
    /// The address of the next page, before all bytes.
    Next(HeaderValue),
    /// The version that the rows were read at, before all bytes.
    Of(Version),
    /// With their share of the permitted read-ahead.
    Bytes(Bytes, OwnedSemaphorePermit),
    End,
}

/// Receives what a [`ListWriter`] writes.
pub(super) struct Chunks {
    chunks: mpsc::UnboundedReceiver<Result<Chunk, ListError>>,
    ahead: Arc<Semaphore>,
}

/// Why a list ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ListError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("a row can't be written")]
    Json(#[from] serde_json::Error),
    #[error("the list can't be compressed")]
    Compression(#[from] io::Error),
    #[error("another server of PostgreSQL has taken over")]
    Replaced,
    #[error("the reader is gone or too slow")]
    Reader,
    #[error("what was asked for is gone: {0}")]
    Gone(&'static str),
    #[error("the writer of the list failed")]
    Unfinished,
}

/// Writes a list from the rows that a connection reads.
pub(super) async fn write_list(
    database: Pool,
    writer: ListWriter,
    rows: impl WriteRows,
) -> Result<ListWriter, ListError> {
    let mut connection = lend(&database).await?;
    let written = rows(&mut connection, writer).await;
    give_back(connection, written).await
}

/// Reads the rows of a list and writes them.
pub(crate) trait WriteRows:
    for<'c> FnOnce(&'c mut PgConnection, ListWriter) -> BoxFuture<'c, Result<ListWriter, ListError>>
    + Send
    + 'static
{
}

impl<W> WriteRows for W where
    W: for<'c> FnOnce(
            &'c mut PgConnection,
            ListWriter,
        ) -> BoxFuture<'c, Result<ListWriter, ListError>>
        + Send
        + 'static
{
}

/// A connection for writing a list. It is closed unless it is passed to [`give_back`]: back in the pool
/// it would first read all remaining rows. So it is also closed when a list is abandoned.
async fn lend(database: &Pool) -> Result<PoolConnection<Postgres>, ListError> {
    let mut connection = database.acquire().await?;
    connection.close_on_drop();
    Ok(connection)
}

/// Returns the connection of a list to the pool before the list ends: a client that has received the
/// whole list and requests another one finds it there.
async fn give_back(
    mut connection: PoolConnection<Postgres>,
    written: Result<ListWriter, ListError>,
) -> Result<ListWriter, ListError> {
    if matches!(written, Ok(_) | Err(ListError::Gone(_))) {
        connection.return_to_pool().await;
    }
    written
}

impl ListWriter {
    pub(super) fn new(coding: Coding) -> (Self, Chunks) {
        let gzip =
            (coding == Coding::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        let (sender, chunks) = mpsc::unbounded_channel();
        let ahead = Arc::new(Semaphore::new(AHEAD_BYTES / 1024));
        let (plain, patience) = (Vec::new(), READER_LIMIT);
        let writer = Self { plain, gzip, chunks: sender, ahead: ahead.clone(), patience };
        (writer, Chunks { chunks, ahead })
    }

    /// Reports errors after the writer was dropped.
    pub(super) fn errors(&self) -> mpsc::UnboundedSender<Result<Chunk, ListError>> {
        self.chunks.clone()
    }

    /// Where to write JSON. [`ListWriter::advance`] passes it on.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Sends the address of the next page, before anything is written.
    pub(crate) fn next_page(&mut self, link: HeaderValue) -> Result<(), ListError> {
        self.pass(Chunk::Next(link))
    }

    /// Sends the version that all rows are read at, before anything is passed on: then the list is of exactly this
    /// version. Otherwise it may be newer than its tag.
    pub(crate) fn is_of(&self, version: Version) -> Result<(), ListError> {
        self.pass(Chunk::Of(version))
    }

    /// Passes on what was written once a piece is full; waits while the reader is too far behind.
    pub(crate) async fn advance(&mut self) -> Result<(), ListError> {
        if self.plain.len() < CHUNK_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), ListError> {
        let ready = match &mut self.gzip {
            // Most rows are small: the next chunk is about as large.
            None => {
                let next = Vec::with_capacity(self.plain.len());
                mem::replace(&mut self.plain, next)
            }
            Some(gzip) => {
                gzip.write_all(&self.plain)?;
                self.plain.clear();
                mem::take(gzip.get_mut())
            }
        };
        self.send(ready).await
    }

    pub(super) async fn finish(mut self) -> Result<(), ListError> {
        let ready = match self.gzip.take() {
            None => mem::take(&mut self.plain),
            Some(mut gzip) => {
                gzip.write_all(&self.plain)?;
                gzip.finish()?
            }
        };
        self.send(ready).await?;
        self.pass(Chunk::End)
    }

    async fn send(&mut self, mut bytes: Vec<u8>) -> Result<(), ListError> {
        if bytes.is_empty() {
            return Ok(());
        }
        // It may stay in memory for long.
        bytes.shrink_to_fit();
        let share = self.wait_for_reader(bytes.len()).await?;
        self.pass(Chunk::Bytes(bytes.into(), share))
    }

    async fn wait_for_reader(&mut self, bytes: usize) -> Result<OwnedSemaphorePermit, ListError> {
        // A row larger than the permitted read-ahead takes all of it.
        let kib = u32::try_from((bytes / 1024 + 1).min(AHEAD_BYTES / 1024));
        let kib = kib.unwrap_or(u32::MAX);
        if let Ok(share) = self.ahead.clone().try_acquire_many_owned(kib) {
            return Ok(share);
        }
        let began = Instant::now();
        let share = timeout(self.patience, self.ahead.clone().acquire_many_owned(kib)).await;
        self.patience = self.patience.saturating_sub(began.elapsed());
        share.ok().and_then(Result::ok).ok_or(ListError::Reader)
    }

    fn pass(&self, chunk: Chunk) -> Result<(), ListError> {
        self.chunks.send(Ok(chunk)).map_err(|_| ListError::Reader)
    }
}

impl Chunks {
    /// The next piece, or why there is none.
    pub(super) async fn next(&mut self) -> Result<Chunk, ListError> {
        self.chunks.recv().await.unwrap_or(Err(ListError::Unfinished))
    }

    /// Permits this many more bytes to be written ahead.
    pub(super) fn read_ahead(&self, bytes: usize) {
        self.ahead.add_permits(bytes / 1024);
    }
}

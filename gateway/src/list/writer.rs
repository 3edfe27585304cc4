//! Takes a list as it is written, and passes it on in pieces.

use std::{
    io::{self, Write},
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use sqlx::{Postgres, pool::PoolConnection};
use tokio::{sync::mpsc, time::timeout};

use super::Coding;

/// Bytes that are written at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Time that a reader may take for a chunk of a streamed list.
const READER_LIMIT: Duration = Duration::from_secs(30);

/// Takes the bytes of a list, in pieces.
pub(crate) struct ListWriter {
    plain: Vec<u8>,
    gzip: Option<GzEncoder<Vec<u8>>>,
    chunks: mpsc::Sender<Result<Chunk, ListError>>,
}

/// A piece of a list. A list without its end was cut off, whatever cut it.
pub(super) enum Chunk {
    /// The address of the next page, before all bytes.
    Next(HeaderValue),
    Bytes(Bytes),
    End,
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
    #[error("the reader is gone or too slow")]
    Reader,
    #[error("what was asked for is gone")]
    Gone,
    #[error("the writer of the list failed")]
    Unfinished,
}

/// Gives a connection back that a list was written with, before the list ends: whoever has the whole
/// list and asks for another one finds it, and needs no further connection.
pub(crate) async fn give_back(
    mut connection: PoolConnection<Postgres>,
    written: Result<ListWriter, ListError>,
) -> Result<ListWriter, ListError> {
    if matches!(written, Ok(_) | Err(ListError::Gone)) {
        connection.return_to_pool().await;
    } else {
        // In the pool it would first read all the rows that nobody wants.
        connection.close_on_drop();
    }
    written
}

impl ListWriter {
    pub(super) fn new(coding: Coding, chunks: mpsc::Sender<Result<Chunk, ListError>>) -> Self {
        let gzip =
            (coding == Coding::Gzip).then(|| GzEncoder::new(Vec::new(), Compression::fast()));
        Self { plain: Vec::new(), gzip, chunks }
    }

    /// Where to write JSON. [`ListWriter::advance`] passes it on.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.plain
    }

    /// Says where the next page is, before anything is written.
    pub(crate) async fn next_page(&mut self, link: HeaderValue) -> Result<(), ListError> {
        self.pass(Chunk::Next(link)).await
    }

    /// Passes on what was written, once it is enough; waits while the reader is behind.
    pub(crate) async fn advance(&mut self) -> Result<(), ListError> {
        if self.plain.len() < CHUNK_BYTES { Ok(()) } else { self.flush().await }
    }

    async fn flush(&mut self) -> Result<(), ListError> {
        let ready = match &mut self.gzip {
            None => std::mem::take(&mut self.plain),
            Some(gzip) => {
                gzip.write_all(&self.plain)?;
                self.plain.clear();
                std::mem::take(gzip.get_mut())
            }
        };
        self.send(ready).await
    }

    pub(super) async fn finish(mut self) -> Result<(), ListError> {
        self.flush().await?;
        if let Some(gzip) = self.gzip.take() {
            let rest = gzip.finish()?;
            self.send(rest).await?;
        }
        self.pass(Chunk::End).await
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), ListError> {
        if bytes.is_empty() { Ok(()) } else { self.pass(Chunk::Bytes(bytes.into())).await }
    }

    async fn pass(&mut self, chunk: Chunk) -> Result<(), ListError> {
        match timeout(READER_LIMIT, self.chunks.send(Ok(chunk))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(ListError::Reader),
        }
    }
}

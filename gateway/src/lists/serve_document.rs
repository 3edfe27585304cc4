//! Serves documents that are made of one state of the database: pages, feeds, badges.

use std::future::Future;

use axum::{
    http::{HeaderValue, header},
    response::Response,
};
use sqlx::PgConnection;

use super::{
    Asked, DependsOn, ListError, ListKind, ListWriter, Lists, serve_by, writer::write_list,
};
use crate::{
    http::{error::ApiError, reader::Reader},
    store::snapshot::Snapshot,
};

/// A document.
pub(crate) trait Document: Send + 'static {
    /// Its media type.
    const TYPE: &'static str;
    /// When it changes.
    const DEPENDS_ON: DependsOn = DependsOn::Page;

    /// Everything that it depends on, except the version of the lists.
    fn name(&self) -> String;

    /// Whether links in it have the address that the request used.
    fn has_addresses(&self) -> bool {
        false
    }

    /// Whether clients can ask for any number of different ones. Without an address that is set, that is so for all
    /// that have addresses: each `Host` has its own.
    fn is_one_of_many(&self) -> bool {
        self.has_addresses()
    }

    /// Writes it. What grows with the catalogue is passed on piece by piece.
    fn write(
        self,
        state: &mut Snapshot<'_>,
        writer: &mut ListWriter,
    ) -> impl Future<Output = Result<(), ListError>> + Send;
}

/// Answers with a document, from memory if it was made within the last second or if nothing has changed since.
///
/// # Errors
/// 404 if there is no such document, 503 when the database fails.
pub(crate) async fn serve_document<D: Document>(
    lists: &Lists,
    reader: &Reader,
    document: D,
) -> Result<Response, ApiError> {
    let (list, kind, depends_on) = (document.name(), ListKind::One, D::DEPENDS_ON);
    let has_addresses = document.has_addresses();
    let asked = Asked { reader, list, kind, depends_on };
    let (turns, is_one_of_many) = (lists.turns.clone(), document.is_one_of_many());
    let response = serve_by(lists, asked, |database, writer| async move {
        let _turn = turns.next(is_one_of_many).await?;
        write_list(database, writer, |database, writer| Box::pin(write(database, document, writer)))
            .await
    })
    .await?;
    Ok(as_document(response, D::TYPE, has_addresses))
}

/// The answer with a list as one with a document of this media type. `has_addresses` as in [`Document`].
pub(crate) fn as_document(
    mut response: Response,
    media_type: &'static str,
    has_addresses: bool,
) -> Response {
    let headers = response.headers_mut();
    if headers.contains_key(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    if has_addresses {
        let vary = HeaderValue::from_static("Accept-Encoding, Host, X-Forwarded-Proto");
        headers.insert(header::VARY, vary);
    }
    response
}

async fn write<D: Document>(
    database: &mut PgConnection,
    document: D,
    mut writer: ListWriter,
) -> Result<ListWriter, ListError> {
    let mut state = Snapshot::begin(database).await?;
    writer.is_of(state.version.of_list(D::DEPENDS_ON))?;
    document.write(&mut state, &mut writer).await?;
    state.end().await?;
    writer.advance().await?;
    Ok(writer)
}

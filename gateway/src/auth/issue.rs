//! Makes the tokens that clients present.

use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Map, Value};

use crate::config::AuthConfig;

/// A token for a client, signed with the current key; it never expires when `expires` (the time
/// since 1970 at which it does) is none.
///
/// # Errors
/// When there is no key, or signing fails.
pub fn make(
    config: &AuthConfig,
    client: &str,
    expires: Option<Duration>,
) -> Result<String, jsonwebtoken::errors::Error> {
    let mut claims = Map::new();
    let [claim, ..] = config.claims.as_slice() else {
        return Err(jsonwebtoken::errors::ErrorKind::MissingRequiredClaim("payload".into()).into());
    };
    // The source of its updates.
    claims.insert("sub".to_owned(), Value::from(client));
    claims.insert(claim.clone(), Value::from(client));
    if let Some(expires) = expires {
        claims.insert("exp".to_owned(), Value::from(expires.as_secs()));
    }
    let [key, ..] = config.keys.as_slice() else {
        return Err(jsonwebtoken::errors::ErrorKind::InvalidKeyFormat.into());
    };
    let key = EncodingKey::from_secret(key.expose().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
}

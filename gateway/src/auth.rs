//! Who may post: holders of a token that one of our keys signed.

use axum::http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};

use crate::{config::AuthConfig, error::ApiError};

/// Seconds that clocks may differ by.
const LEEWAY: u64 = 5;

/// Checks tokens.
pub(crate) struct Auth {
    keys: Vec<DecodingKey>,
    claim: String,
    validation: Validation,
}

/// Why a token was refused: for the log, never for the client.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no Authorization header")]
    NoHeader,
    #[error("not of the scheme Bearer")]
    NotBearer,
    #[error("the token is not valid: {0}")]
    Token(#[from] jsonwebtoken::errors::Error),
    #[error("the token has no claim {0}, or an empty one")]
    Claim(String),
}

impl Auth {
    pub(crate) fn new(config: AuthConfig) -> Self {
        // The only algorithm, whatever the token's header asks for.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let keys = config
            .keys
            .iter()
            .map(|key| DecodingKey::from_secret(key.expose().as_bytes()))
            .collect();
        Self { keys, claim: config.claim, validation }
    }

    /// Checks the request's token; returns it.
    ///
    /// # Errors
    /// 401, which says to the log alone what was wrong.
    pub(crate) fn check<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, ApiError> {
        self.verify(headers).map_err(|refusal| {
            tracing::info!(reason = %refusal, "token refused");
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "A valid token is needed: `Authorization: Bearer <JWT>`",
            )
            .with(header::WWW_AUTHENTICATE, "Bearer")
        })
    }

    fn verify<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
        let header = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoHeader)?;
        let (scheme, token) = header
            .to_str()
            .ok()
            .and_then(|h| h.trim().split_once(' '))
            .ok_or(Refusal::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::NotBearer);
        }
        let token = token.trim();
        let claims = self.claims(token)?;
        let present = match claims.get(&self.claim) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(value)) => value.as_f64() != Some(0.0),
            Some(Value::String(value)) => !value.is_empty(),
            Some(Value::Array(value)) => !value.is_empty(),
            Some(Value::Object(value)) => !value.is_empty(),
        };
        if present { Ok(token) } else { Err(Refusal::Claim(self.claim.clone())) }
    }

    /// The claims, by the first key that signed them.
    fn claims(&self, token: &str) -> Result<Map<String, Value>, jsonwebtoken::errors::Error> {
        let mut refused = jsonwebtoken::errors::Error::from(ErrorKind::InvalidToken);
        for key in &self.keys {
            match jsonwebtoken::decode(token, key, &self.validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => refused = error,
            }
            if !matches!(refused.kind(), ErrorKind::InvalidSignature) {
                break;
            }
        }
        Err(refused)
    }
}

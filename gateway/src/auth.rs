//! Who may post: holders of a token that one of our keys signed.

use axum::http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde_json::{Map, Value};
use shared::{
    metrics::{GATEWAY, TokenRefusal, Words},
    seldom,
};

use crate::{config::AuthConfig, error::ApiError};

/// Seconds that clocks may differ by.
const LEEWAY: u64 = 5;

/// Checks tokens.
pub struct Auth {
    keys: Vec<DecodingKey>,
    claim: String,
    validation: Validation,
}

impl Auth {
    /// With the keys and the claim of the settings.
    #[must_use]
    pub fn new(config: AuthConfig) -> Self {
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
            GATEWAY.tokens_refused.of(refusal).inc();
            // A word, since the errors of others may show a part of the token.
            let reason = refusal.word();
            seldom!(info, reason, reason, "token refused");
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "A valid token is needed: `Authorization: Bearer <JWT>`",
            )
            .with(header::WWW_AUTHENTICATE, "Bearer")
        })
    }

    /// The token of a request, when it is good.
    ///
    /// # Errors
    /// When it is not, with the reason.
    pub fn verify<'a>(&self, headers: &'a HeaderMap) -> Result<&'a str, TokenRefusal> {
        let header = headers.get(header::AUTHORIZATION).ok_or(TokenRefusal::NoHeader)?;
        let (scheme, token) = header
            .to_str()
            .ok()
            .and_then(|h| h.trim().split_once(' '))
            .ok_or(TokenRefusal::NotBearer)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(TokenRefusal::NotBearer);
        }
        let token = token.trim();
        let claims = self.claims(token).map_err(|error| refusal(error.kind()))?;
        let present = match claims.get(&self.claim) {
            None | Some(Value::Null) => false,
            Some(Value::Bool(value)) => *value,
            Some(Value::Number(value)) => value.as_f64() != Some(0.0),
            Some(Value::String(value)) => !value.is_empty(),
            Some(Value::Array(value)) => !value.is_empty(),
            Some(Value::Object(value)) => !value.is_empty(),
        };
        if present { Ok(token) } else { Err(TokenRefusal::Claim) }
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

fn refusal(error: &ErrorKind) -> TokenRefusal {
    if matches!(error, ErrorKind::InvalidSignature) {
        TokenRefusal::Signature
    } else if matches!(error, ErrorKind::ExpiredSignature) {
        TokenRefusal::Expired
    } else if matches!(error, ErrorKind::ImmatureSignature) {
        TokenRefusal::Early
    } else {
        TokenRefusal::Malformed
    }
}

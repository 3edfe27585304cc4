//! Who may post: holders of a token that one of our keys signed.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind, get_current_timestamp};
use serde_json::{Map, Value};
use shared::{
    telemetry::metrics::{GATEWAY, TokenRefusal, Words},
    throttled,
    wire::message::is_source,
};

use crate::{config::AuthConfig, http::error::ApiError, store::clock::DatabaseClock};

/// Tolerated difference between clocks, in seconds.
const LEEWAY: f64 = 5.0;

/// Who sent a request, by its token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller<'a> {
    /// The token.
    pub token: &'a str,
    /// Its claim `sub`, if that can be a source; otherwise empty.
    pub subject: String,
}

/// Checks tokens.
pub struct Auth {
    keys: Vec<DecodingKey>,
    names: Vec<String>,
    validation: Validation,
    clock: Option<Arc<DatabaseClock>>,
}

impl Auth {
    /// With the keys and the claim of the settings. Times are judged by the clock of this machine.
    #[must_use]
    pub fn new(config: AuthConfig) -> Self {
        // The only accepted algorithm, whatever the token's header names.
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are checked here: the library takes only those that fit an unsigned integer.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let keys = config
            .keys
            .iter()
            .map(|key| DecodingKey::from_secret(key.expose().as_bytes()))
            .collect();
        Self { keys, names: config.claims, validation, clock: None }
    }

    /// Judges times by the database's clock, as soon as that is known.
    pub(crate) fn by(self, clock: Arc<DatabaseClock>) -> Self {
        Self { clock: Some(clock), ..self }
    }

    /// The time in seconds since 1970.
    fn now(&self) -> f64 {
        let database = self.clock.as_ref().and_then(|clock| clock.now());
        database.map_or_else(|| get_current_timestamp() as f64, |now| now.as_micros() as f64 / 1e6)
    }

    /// Checks the token of a request and returns whose it is.
    ///
    /// # Errors
    /// 401; only the log has the reason.
    pub(crate) fn check<'a>(&self, headers: &'a HeaderMap) -> Result<Caller<'a>, ApiError> {
        self.verify(headers).map_err(|refusal| {
            GATEWAY.tokens_refused.of(refusal).inc();
            // A fixed word, because the errors of libraries may contain a part of the token.
            let reason = refusal.word();
            throttled!(info, reason, reason, "token refused");
            ApiError::new(
                StatusCode::UNAUTHORIZED,
                "A valid token is needed: `Authorization: Bearer <JWT>`",
            )
            .with(header::WWW_AUTHENTICATE, "Bearer")
        })
    }

    /// Whose token a request has, if it is valid.
    ///
    /// # Errors
    /// The reason, if it is invalid.
    pub fn verify<'a>(&self, headers: &'a HeaderMap) -> Result<Caller<'a>, TokenRefusal> {
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
        let claims = self.claims(token)?;
        check_times(&claims, self.now())?;
        let present = self.names.iter().any(|name| is_true(claims.get(name)));
        if !present {
            return Err(TokenRefusal::Claim);
        }
        Ok(Caller { token, subject: subject(claims) })
    }

    /// The claims, by the first key that signed them.
    fn claims(&self, token: &str) -> Result<Map<String, Value>, TokenRefusal> {
        let mut refused = TokenRefusal::Malformed;
        for key in &self.keys {
            match jsonwebtoken::decode(token, key, &self.validation) {
                // Critical extensions; none is supported (RFC 7515, 4.1.11).
                Ok(token) if token.header.crit.is_some() => return Err(TokenRefusal::Malformed),
                Ok(token) => return Ok(token.claims),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {
                    refused = TokenRefusal::Signature;
                }
                Err(_) => return Err(TokenRefusal::Malformed),
            }
        }
        Err(refused)
    }
}

/// The claim `sub`, if it is a text that can be a source.
fn subject(mut claims: Map<String, Value>) -> String {
    match claims.remove("sub") {
        Some(Value::String(subject)) if is_source(&subject) => subject,
        _ => String::new(),
    }
}

/// Whether Python treats a value as true.
fn is_true(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => false,
        Some(Value::Bool(value)) => *value,
        Some(Value::Number(value)) => value.as_f64() != Some(0.0),
        Some(Value::String(value)) => !value.is_empty(),
        Some(Value::Array(value)) => !value.is_empty(),
        Some(Value::Object(value)) => !value.is_empty(),
    }
}

/// Checks `exp` and `nbf`, where they are, as numbers of any size (RFC 7519, 4.1.4 and 4.1.5). `now` is
/// in seconds since 1970.
fn check_times(claims: &Map<String, Value>, now: f64) -> Result<(), TokenRefusal> {
    let time = |name| match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        Some(_) => Err(TokenRefusal::Malformed),
    };
    if time("exp")?.is_some_and(|exp| exp < now - LEEWAY) {
        return Err(TokenRefusal::Expired);
    }
    if time("nbf")?.is_some_and(|nbf| nbf > now + LEEWAY) {
        return Err(TokenRefusal::Early);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_are_numbers_of_any_size() {
        for (claims, expected) in [
            (json!({}), Ok(())),
            (json!({ "exp": 1_000 }), Ok(())),
            (json!({ "exp": 995, "nbf": 1_005 }), Ok(())),
            (json!({ "exp": 994 }), Err(TokenRefusal::Expired)),
            (json!({ "exp": 994.9 }), Err(TokenRefusal::Expired)),
            (json!({ "exp": -1 }), Err(TokenRefusal::Expired)),
            (json!({ "exp": 1e300 }), Ok(())),
            (json!({ "exp": u64::MAX }), Ok(())),
            (json!({ "nbf": 1_006 }), Err(TokenRefusal::Early)),
            (json!({ "nbf": -1 }), Ok(())),
            (json!({ "nbf": -1e300 }), Ok(())),
            (json!({ "nbf": 1e300 }), Err(TokenRefusal::Early)),
            (json!({ "exp": "soon" }), Err(TokenRefusal::Malformed)),
            (json!({ "exp": null }), Err(TokenRefusal::Malformed)),
            (json!({ "nbf": [] }), Err(TokenRefusal::Malformed)),
        ] {
            let claims = claims.as_object().expect("claims are an object");
            assert_eq!(check_times(claims, 1_000.0), expected, "{claims:?}");
        }
    }
}

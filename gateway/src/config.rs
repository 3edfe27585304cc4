//! The gateway's settings.

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use shared::{
    amqp::broker::Broker,
    database::{self, ConnectOptions},
    http::admin,
    settings::{Secret, Settings, SettingsError, invalid},
};

/// A shorter key can be guessed: HS256 wants as many bytes as its hash has (RFC 7518, 3.2).
const SAFE_KEY_BYTES: usize = 32;

/// What `gateway run` needs.
pub struct Config {
    /// Address and port to serve; port 0 takes a free one.
    pub bind: SocketAddr,
    /// Address and port for health and metrics, if they have one of their own.
    pub admin: Option<SocketAddr>,
    /// PostgreSQL.
    pub database: ConnectOptions,
    /// RabbitMQ.
    pub broker: Broker,
    /// What tokens are checked against.
    pub auth: AuthConfig,
    /// The file that maps alerts to components, if there is one.
    pub alert_mapping: Option<PathBuf>,
    /// Whether an update that an incident already covers is answered 409.
    pub conflict: bool,
    /// Days that the record of each update is kept.
    pub inbox_days: u32,
    /// The pages.
    pub pages: PageConfig,
    /// Limits of concurrent work.
    pub limits: Limits,
}

/// What tokens are checked against.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// The keys whose signature is accepted; the first one signs.
    pub keys: Vec<Secret>,
    /// A token must have one of these claims; one that is issued gets the first.
    pub claims: Vec<String>,
    /// The names of settings that can be read in two ways, both of which are accepted.
    ambiguous: Vec<&'static str>,
}

/// What the pages and feeds need.
#[derive(Clone, Debug)]
pub struct PageConfig {
    /// Whether there are pages for people. Feeds are always served.
    pub are_served: bool,
    /// The title of pages and feeds.
    pub title: String,
    /// Address of the service for links, with a slash at its end; none to take that of the request.
    pub url: Option<String>,
    /// The lowest impact that reduces the uptime.
    pub uptime_impact: i16,
}

/// Limits of concurrent work.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// HTTP connections.
    pub connections: usize,
    /// Time that an idle one is kept.
    pub keep_alive: Duration,
    /// Updates between arrival and answer.
    pub in_flight: usize,
    /// Updates per second for each token; none for no limit.
    pub updates_per_second: Option<NonZeroU32>,
    /// Database connections of each of the two pools.
    pub database_connections: u32,
    /// Maximum number of lists streamed at once, because they are too large to keep in memory.
    pub streamed_lists: usize,
}

impl Config {
    /// From the settings.
    ///
    /// # Errors
    /// When one is missing or invalid; the message names the expected form.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let count = |name, most| settings.number(name, 1..=most).map(|number| number as usize);
        Ok(Self {
            bind: Self::bind(settings)?,
            admin: admin::address(settings)?,
            database: database::connect_options(settings, "gateway")?,
            broker: Broker::from_settings(settings)?,
            auth: AuthConfig::from_settings(settings)?,
            alert_mapping: Self::alert_mapping(settings),
            conflict: settings.switch("SDB_V1_CONFLICT")?,
            inbox_days: settings.number("SDB_INBOX_DAYS", 1..=3_650)?,
            pages: PageConfig::from_settings(settings)?,
            limits: Limits {
                connections: count("SDB_MAX_CONNECTIONS", 1_000_000)?,
                keep_alive: Duration::from_secs(
                    settings.number("SDB_KEEP_ALIVE_SECONDS", 1..=3_600)?.into(),
                ),
                in_flight: count("SDB_MAX_IN_FLIGHT", 1_000_000)?,
                updates_per_second: NonZeroU32::new(
                    settings.number("SDB_RATE_LIMIT", 0..=1_000_000)?,
                ),
                database_connections: settings.number("SDB_DATABASE_CONNECTIONS", 1..=1_000)?,
                streamed_lists: count("SDB_MAX_LISTS", 1_000)?,
            },
        })
    }

    /// The file that maps alerts to components, if there is one.
    #[must_use]
    pub fn alert_mapping(settings: &Settings) -> Option<PathBuf> {
        settings.text("SDB_ALERT_MAPPING").map(PathBuf::from)
    }

    /// Address and port to serve.
    ///
    /// # Errors
    /// When it is invalid; the message names the expected form.
    pub fn bind(settings: &Settings) -> Result<SocketAddr, SettingsError> {
        settings.parsed("SDB_BIND", "an address and port such as `0.0.0.0:8080`")
    }
}

impl PageConfig {
    fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        Ok(Self {
            are_served: settings.switch("SDB_PAGE")?,
            title: settings.required("SDB_PAGE_TITLE")?,
            url: page_url(settings)?,
            uptime_impact: settings.number("SDB_UPTIME_IMPACT", 1..=3)? as i16,
        })
    }

    /// The path below which everything is for a reader, with slashes around it.
    pub(crate) fn base(&self) -> String {
        let url = self.url.as_deref().and_then(|url| url::Url::parse(url).ok());
        url.map_or_else(|| "/".to_owned(), |url| url.path().to_owned())
    }
}

fn page_url(settings: &Settings) -> Result<Option<String>, SettingsError> {
    const NAME: &str = "SDB_PAGE_URL";
    let Some(text) = settings.text(NAME) else { return Ok(None) };
    let is_usable = |url: &url::Url| {
        matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    };
    let url = url::Url::parse(&text)
        .ok()
        .filter(is_usable)
        .ok_or_else(|| invalid(NAME, &text, "an address such as `https://status.example.org`"))?;
    Ok(Some(format!("{}/", url.as_str().trim_end_matches('/'))))
}

impl AuthConfig {
    /// From the settings. Those that earlier versions of this program read differently from the Python
    /// dashboard are accepted in both forms, so that tokens stay valid.
    ///
    /// # Errors
    /// When there is no key, or a setting is invalid.
    pub fn from_settings(settings: &Settings) -> Result<Self, SettingsError> {
        let mut ambiguous = Vec::new();
        let mut readings = |name| {
            let readings = settings.readings(name)?;
            if readings.len() > 1 {
                ambiguous.push(name);
            }
            Ok::<_, SettingsError>(readings)
        };
        let mut keys = readings("SDB_SECRET_KEY")?;
        if keys.is_empty() {
            keys.push(settings.required("SDB_SECRET_KEY")?);
        }
        keys.extend(readings("SDB_SECRET_KEY_PREVIOUS")?);
        let claims = readings("SDB_API_PAYLOAD_KEY")?;
        if let Some(claim) =
            claims.iter().find(|claim| ["exp", "nbf", "iat", "aud"].contains(&claim.as_str()))
        {
            let expected = "the name of a claim of your own, such as `stackmon`";
            return Err(invalid("SDB_API_PAYLOAD_KEY", claim, expected));
        }
        Ok(Self { keys: keys.into_iter().map(Secret::from).collect(), claims, ambiguous })
    }

    /// Warns of keys that can be guessed, and of settings that can be read in two ways.
    pub fn warn(&self) {
        if self.keys.iter().any(|key| key.expose().len() < SAFE_KEY_BYTES) {
            tracing::warn!(
                "a secret key is shorter than {SAFE_KEY_BYTES} bytes and can be guessed: \
                `openssl rand -hex 32` makes a good one"
            );
        }
        for name in &self.ambiguous {
            tracing::warn!(
                name,
                "a setting has double quotes or white space around it: it is accepted as the Python \
                dashboard reads it and also trimmed and with its quotes; see docs/operations/procedures.md, \"Quotes and \
                white space in settings\""
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_for_links_has_a_slash_at_its_end() {
        let read =
            |text: &str| page_url(&Settings::new([("SDB_PAGE_URL".to_owned(), text.to_owned())]));
        assert_eq!(read("").unwrap(), None);
        for (text, url) in [
            ("https://status.example.org", "https://status.example.org/"),
            ("http://example.org:8080/status//", "http://example.org:8080/status/"),
        ] {
            assert_eq!(read(text).unwrap().as_deref(), Some(url));
        }
        for bad in [
            "status.example.org",
            "ftp://example.org",
            "https://a:b@example.org",
            "https://example.org?x",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}

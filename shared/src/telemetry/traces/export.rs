//! Exports spans over OTLP/HTTP to the collector that the standard `OTEL_` variables name.
//!
//! The SDK encodes and sends on a separate thread, and drops what does not fit into its queue: nothing
//! ever waits for a collector.

use std::{
    env, fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry::KeyValue;
use opentelemetry_http::{HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    resource::{EnvResourceDetector, TelemetryResourceDetector},
    trace::{BatchSpanProcessor, SdkTracerProvider, SpanData},
};
use parking_lot::Mutex;
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::{runtime::Handle, time::timeout};

use crate::{
    settings::{SettingsError, invalid},
    telemetry::chain,
};

/// Time limit of one request to a collector; the SDK's own limit is for all attempts together.
const SEND_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a collector's answer that are read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Minimum time between two log lines about lost spans.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Maximum number of links of a transaction's span, one for each update: the SDK's default is lower than
/// a batch.
const MAX_LINKS: u32 = 10_000;

/// Default maximum length of the text of an attribute: addresses and headers of requests may be much
/// longer.
const MAX_TEXT_CHARS: usize = 1_024;

/// Why traces can't be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A variable has a value that can't be used.
    #[error(transparent)]
    Setting(#[from] SettingsError),
    /// The SDK refuses the variables.
    #[error("the OTEL_ variables can't be used")]
    Refused(#[from] ExporterBuildError),
    /// TLS is required, but there are no root certificates.
    #[error("the system's certificates can't be read")]
    Certificates(#[source] std::io::Error),
}

/// Whether the variables enable traces.
pub(super) fn is_wanted() -> Result<bool, SettingsError> {
    if variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return Ok(false);
    }
    const EXPORTER: &str = "OTEL_TRACES_EXPORTER";
    match variable(EXPORTER).as_deref() {
        Some("none") => Ok(false),
        Some("otlp") => Ok(true),
        Some(other) => Err(invalid(EXPORTER, other, "`otlp` or `none`")),
        None => Ok(endpoint().is_some()),
    }
}

/// Maximum length of the text of an attribute. The SDK reads neither of the two variables.
pub(super) fn longest_text() -> Result<usize, SettingsError> {
    let limit = ["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)));
    let Some((name, limit)) = limit else { return Ok(MAX_TEXT_CHARS) };
    limit.parse().map_err(|_| invalid(name, &limit, "a whole number of characters"))
}

/// The exporter and its thread, according to the variables.
pub(super) fn start(service: &'static str) -> Result<SdkTracerProvider, ExportError> {
    let protocol = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"]
        .into_iter()
        .find_map(|name| Some((name, variable(name)?)));
    if let Some((name, protocol)) = protocol.filter(|(_, protocol)| protocol != "http/protobuf") {
        return Err(invalid(name, &protocol, "`http/protobuf`").into());
    }
    let failure = Failure::default();
    let sender = Sender::new(failure.clone())?;
    let exporter = SpanExporter::builder().with_http().with_http_client(sender).build()?;
    let reporting = Reporting { exporter, failure, lost: Mutex::default() };
    let processor = BatchSpanProcessor::builder(reporting).build();
    let mut provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(resource(service));
    if variable("OTEL_SPAN_LINK_COUNT_LIMIT").is_none() {
        provider = provider.with_max_links_per_span(MAX_LINKS);
    }
    Ok(provider.build())
}

/// The resource of the spans; the variables have precedence.
fn resource(service: &'static str) -> Resource {
    let resource = Resource::builder_empty()
        .with_service_name(service)
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .with_attribute(KeyValue::new("process.pid", i64::from(std::process::id())))
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match variable("OTEL_SERVICE_NAME") {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

fn endpoint() -> Option<String> {
    variable("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| variable("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// A variable; an empty one counts as not set.
fn variable(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Sends requests of the SDK, whose thread has no runtime, as tasks on the program's runtime.
#[derive(Debug)]
struct Sender {
    runtime: Handle,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    failure: Failure,
}

/// Why the last export failed, which the SDK does not keep.
type Failure = Arc<Mutex<Option<String>>>;

impl Sender {
    fn new(failure: Failure) -> Result<Self, ExportError> {
        let (provider, builder) = (ring::default_provider(), HttpsConnectorBuilder::new());
        let builder = if endpoint().is_some_and(|endpoint| endpoint.starts_with("https:")) {
            builder.with_provider_and_native_roots(provider).map_err(ExportError::Certificates)?
        } else {
            // Without TLS no certificates are needed, and a container may have none.
            let tls = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_safe_default_protocol_versions()
                .map_err(|error| ExportError::Certificates(std::io::Error::other(error)))?;
            let nobody = RootCertStore::empty();
            builder.with_tls_config(tls.with_root_certificates(nobody).with_no_client_auth())
        };
        let connector = builder.https_or_http().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { runtime: Handle::current(), client, failure })
    }
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sending = async move {
            let (head, body) = client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        let sent = self.runtime.spawn(async { timeout(SEND_LIMIT, sending).await? }).await?;
        let failure = sent.as_ref().err().map(|error: &HttpError| chain(error.as_ref()));
        *self.failure.lock() = failure;
        sent
    }
}

/// Forwards spans, and periodically logs how many were lost.
struct Reporting {
    exporter: SpanExporter,
    failure: Failure,
    lost: Mutex<Lost>,
}

#[derive(Default)]
struct Lost {
    /// Since the last log line.
    spans: usize,
    said: Option<Instant>,
}

impl Reporting {
    fn failed(&self, spans: usize, error: &OTelSdkError) {
        let mut lost = self.lost.lock();
        lost.spans += spans;
        if lost.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            let reason = self.failure.lock().take().unwrap_or_else(|| error.to_string());
            let spans = lost.spans;
            tracing::warn!(spans, reason, "spans are lost: the collector does not take them");
            *lost = Lost { spans: 0, said: Some(Instant::now()) };
        }
    }
}

impl fmt::Debug for Reporting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The exporter would show its headers, which may hold a key.
        f.write_str("Reporting")
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Reporting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        if let Err(error) = self.exporter.export(batch).await {
            self.failed(spans, &error);
        }
        // The SDK would log each failure.
        Ok(())
    }

    fn shutdown_with_timeout(&self, limit: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(limit)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

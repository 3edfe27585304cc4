//! The load generator: connections that send their next request when they have their answer, or a
//! steady rate of requests.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    body::Bytes,
    http::{self, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
};
use hdrhistogram::Histogram;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self as client, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::runs::LoadRun;

/// Connections of a steady rate.
const STEADY_CONNECTIONS: usize = 64;
/// The longest that a request may take; one that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a connection that broke waits before it is made again.
const RECONNECT: Duration = Duration::from_millis(10);
/// The longest latency with a bucket of its own, in µs.
const LONGEST: u64 = 60_000_000;

/// Bodies that are sent one after the other, in this order, and from the first one again after the last.
#[derive(Clone)]
pub(crate) struct Bodies(Arc<Taken>);

struct Taken {
    all: Vec<Bytes>,
    next: AtomicUsize,
}

impl Bodies {
    pub(crate) fn new(all: impl IntoIterator<Item = String>) -> Self {
        let all = all.into_iter().map(Bytes::from).collect();
        Self(Arc::new(Taken { all, next: AtomicUsize::new(0) }))
    }

    /// Starts with the first one again.
    pub(crate) fn rewind(&self) {
        self.0.next.store(0, Ordering::Relaxed);
    }

    fn next(&self) -> Bytes {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        self.0.all.get(number % self.0.all.len().max(1)).cloned().unwrap_or_default()
    }
}

/// What is asked.
#[derive(Clone)]
pub(crate) struct Request {
    method: Method,
    path: String,
    headers: HeaderMap,
    bodies: Option<Bodies>,
    /// How many updates each body has, where an answer has the result of each.
    many: Option<u64>,
}

impl Request {
    pub(crate) fn get(path: &str) -> Self {
        let (path, headers) = (path.to_owned(), HeaderMap::new());
        Self { method: Method::GET, path, headers, bodies: None, many: None }
    }

    /// Updates, with this token.
    pub(crate) fn post(bodies: &Bodies, token: &str) -> Result<Self> {
        let path = "/api/v1/component_status".to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}"))?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(Self { method: Method::POST, path, headers, bodies: Some(bodies.clone()), many: None })
    }

    /// Bodies with so many updates each, with this token. What is counted are updates, not requests.
    pub(crate) fn post_many(bodies: &Bodies, updates: usize, token: &str) -> Result<Self> {
        let path = "/api/v1/updates".to_owned();
        Ok(Self { path, many: Some(updates.try_into()?), ..Self::post(bodies, token)? })
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Result<Self> {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value)?);
        Ok(self)
    }

    fn next(&self, host: &HeaderValue) -> Result<http::Request<Full<Bytes>>> {
        let body = self.bodies.as_ref().map(Bodies::next).unwrap_or_default();
        let mut request = http::Request::new(Full::new(body));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse()?;
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(header::HOST, host.clone());
        Ok(request)
    }
}

/// As many requests as so many connections get answered.
pub(crate) async fn closed(
    address: &str,
    request: &Request,
    connections: usize,
    time: Duration,
) -> Result<LoadRun> {
    run(address, request, connections, time, None).await
}

/// So many requests a second, whatever becomes of those before: latency counts from when a request was
/// to be sent.
pub(crate) async fn steady(
    address: &str,
    request: &Request,
    rate: u32,
    time: Duration,
) -> Result<LoadRun> {
    run(address, request, STEADY_CONNECTIONS, time, Some(rate)).await
}

async fn run(
    address: &str,
    request: &Request,
    connections: usize,
    time: Duration,
    rate: Option<u32>,
) -> Result<LoadRun> {
    let begin = Instant::now();
    let schedule = rate.map(|rate| Arc::new(Schedule { begin, rate, next: AtomicU64::new(0) }));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let mut client = Client::new(address, request)?;
        let schedule = schedule.clone();
        clients.spawn(async move {
            client.send_until(begin + time, schedule.as_deref()).await?;
            Ok::<_, anyhow::Error>(client)
        });
    }
    let mut run = LoadRun::with_latencies()?;
    while let Some(client) = clients.join_next().await {
        let client = client??;
        run.requests += client.answered + client.failed;
        run.failed += client.failed;
        run.latencies.as_mut().context("made with latencies")?.add(client.latencies)?;
    }
    // What was under way at the end counts, and so does the time that it took.
    run.seconds = begin.elapsed().as_secs_f64();
    Ok(run)
}

/// When the requests of a steady rate are to be sent.
struct Schedule {
    begin: Instant,
    rate: u32,
    next: AtomicU64,
}

impl Schedule {
    fn next(&self) -> Instant {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.begin + Duration::from_secs_f64(number as f64 / f64::from(self.rate))
    }
}

/// One connection and what it saw.
struct Client {
    address: String,
    host: HeaderValue,
    request: Request,
    answered: u64,
    /// Without an answer, or with one, or a result, of 400 and more.
    failed: u64,
    latencies: Histogram<u64>,
}

impl Client {
    fn new(address: &str, request: &Request) -> Result<Self> {
        Ok(Self {
            address: address.to_owned(),
            host: HeaderValue::from_str(address)?,
            request: request.clone(),
            answered: 0,
            failed: 0,
            latencies: latencies()?,
        })
    }

    async fn send_until(&mut self, end: Instant, schedule: Option<&Schedule>) -> Result<()> {
        let mut connection = None;
        loop {
            let due = schedule.map_or_else(Instant::now, Schedule::next);
            if due >= end {
                return Ok(());
            }
            sleep_until(due).await;
            let request = self.request.next(&self.host)?;
            match timeout(PATIENCE, self.send(&mut connection, request)).await {
                Ok(Ok(good)) if good > 0 => {
                    self.answered += good;
                    self.failed += self.request.many.unwrap_or(1).saturating_sub(good);
                    let micros = due.elapsed().as_micros().min(LONGEST.into()) as u64;
                    self.latencies.record(micros)?;
                }
                // An error of the server is an answer: the connection is good.
                Ok(Ok(_)) => self.failed += self.request.many.unwrap_or(1),
                Ok(Err(_)) | Err(_) => {
                    self.failed += self.request.many.unwrap_or(1);
                    connection = None;
                    sleep(RECONNECT).await;
                }
            }
        }
    }

    /// Returns how many good answers there are: of one request with many updates, results.
    async fn send(
        &self,
        connection: &mut Option<SendRequest<Full<Bytes>>>,
        request: http::Request<Full<Bytes>>,
    ) -> Result<u64> {
        if connection.as_ref().is_none_or(SendRequest::is_closed) {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let (sender, driver) = client::handshake(TokioIo::new(stream)).await?;
            // Its error is that of the request that it was for.
            tokio::spawn(driver);
            *connection = Some(sender);
        }
        let sender = connection.as_mut().context("just made")?;
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if self.request.many.is_some() && status == StatusCode::OK {
            return Ok(good_results(&body.collect().await?.to_bytes()));
        }
        while let Some(frame) = body.frame().await {
            frame?;
        }
        Ok(u64::from(status.as_u16() < 400))
    }
}

/// Results of a 2xx. They are looked for rather than read: the client shares the machine. The statuses of
/// incidents' updates are texts.
fn good_results(body: &[u8]) -> u64 {
    let good = b"\"status\":2";
    body.windows(good.len()).filter(|bytes| bytes == good).count() as u64
}

/// Latencies in µs, to three digits.
pub(crate) fn latencies() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LONGEST, 3)?)
}

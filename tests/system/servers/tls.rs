//! TLS to both servers. Doors before them speak it, with certificates of a test's own authority.

use std::{fs, net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};

use harness::{Fixture, System, eventually, tests};

tests!(tls_is_spoken_to_both_servers, a_server_of_an_unknown_authority_is_not_trusted);

/// An authority, and what a server of the name `localhost` needs of it.
struct Authority {
    certificate_pem: String,
    acceptor: TlsAcceptor,
}

impl Authority {
    fn new() -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let key = KeyPair::generate()?;
        let server =
            CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &authority)?;
        let chain = vec![CertificateDer::from(server.der().to_vec())];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        Ok(Self { certificate_pem: authority.pem(), acceptor: Arc::new(config).into() })
    }

    /// A door before a server. PostgreSQL's clients ask in the clear for TLS first.
    async fn door(&self, server: SocketAddr, asks_first: bool) -> Result<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (address, acceptor) = (listener.local_addr()?, self.acceptor.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not trust the door ends its connection; the next is served.
                tokio::spawn(pass(stream, acceptor.clone(), server, asks_first));
            }
        });
        Ok(address)
    }
}

async fn pass(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
    server: SocketAddr,
    asks_first: bool,
) -> Result<()> {
    if asks_first {
        let mut request = [0; 8];
        stream.read_exact(&mut request).await?;
        // SSLRequest: its length and its code, 1234 and 5679.
        ensure!(request == [0, 0, 0, 8, 4, 210, 22, 47], "no request for TLS: {request:?}");
        stream.write_all(b"S").await?;
    }
    let mut inside = acceptor.accept(stream).await?;
    let mut behind = TcpStream::connect(server).await?;
    copy_bidirectional(&mut inside, &mut behind).await?;
    Ok(())
}

/// The settings of a process that reaches the servers through doors of this authority.
async fn through_doors(
    fixture: &Fixture,
    system: &System,
    authority: &Authority,
) -> Result<(String, String)> {
    let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
    let database = authority.door(local(fixture.servers.postgres().port()), true).await?;
    let broker = authority.door(local(fixture.servers.rabbitmq().port()), false).await?;
    let (_, after) = system.database_uri.split_once("://").context("no URI")?;
    let (user, rest) = after.split_once('@').context("no user")?;
    let (_, name) = rest.split_once('/').context("no database")?;
    let port = database.port();
    let database = format!("postgresql://{user}@localhost:{port}/{name}?sslmode=verify-full");
    let (_, after) = system.amqp_uri.split_once("://").context("no URI")?;
    let (user, rest) = after.split_once('@').context("no user")?;
    let (_, vhost) = rest.split_once('/').context("no vhost")?;
    Ok((database, format!("amqps://{user}@localhost:{}/{vhost}", broker.port())))
}

async fn tls_is_spoken_to_both_servers(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let authority = Authority::new()?;
    let (database, broker) = through_doors(&fixture, &system, &authority).await?;
    let file = fixture.folder.join("authority.pem");
    fs::write(&file, &authority.certificate_pem)?;
    let file = file.to_str().context("a path that is no text")?;
    let variables =
        [("SDB_DATABASE_URI", &*database), ("SDB_AMQP_URI", &*broker), ("SSL_CERT_FILE", file)];
    system.start_worker(&variables).await?;
    system.start_gateway(&variables).await?;
    system.components(&[("DNS", &[])]).await?;
    let answer = system.post(&json!({ "name": "DNS", "impact": 1 })).await?;
    ensure!(answer.status == 201, "{answer:?}");
    system.finish().await
}

async fn a_server_of_an_unknown_authority_is_not_trusted(fixture: Arc<Fixture>) -> Result<()> {
    let mut system = System::prepared(&fixture).await?;
    let (authority, other) = (Authority::new()?, Authority::new()?);
    let (database, broker) = through_doors(&fixture, &system, &authority).await?;
    let file = fixture.folder.join("other.pem");
    fs::write(&file, &other.certificate_pem)?;
    let file = file.to_str().context("a path that is no text")?;
    let worker =
        system.launch("worker", &[("SDB_DATABASE_URI", &database), ("SSL_CERT_FILE", file)])?;
    eventually("the worker refuses the database", async || {
        let log = worker.log()?;
        Ok(log.contains("waiting for the database") && log.contains("invalid peer certificate"))
    })
    .await?;
    let worker = system.launch("worker", &[("SDB_AMQP_URI", &broker), ("SSL_CERT_FILE", file)])?;
    eventually("the worker refuses the broker", async || {
        let log = worker.log()?;
        Ok(log.contains("RabbitMQ can't be reached") && log.contains("invalid peer certificate"))
    })
    .await?;
    system.finish().await
}

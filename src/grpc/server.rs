//! Starts the endpoint on an address, and stops it when told.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server;
use uuid::Uuid;

use super::connection::Connection;
use super::{Parts, Shared, dispatch};
use crate::access::RateLimiter;
use crate::config::{Config, Limits};

/// Why the endpoint did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{address} is already in use; stop the other program or choose another with --grpc")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system does not let us listen there.
    #[error("cannot listen on {address}; choose another address with --grpc")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The threads could not be started.
    #[error("cannot start the threads of the KurrentDB protocol; check the limits of the process")]
    Threads {
        /// What the operating system said.
        source: io::Error,
    },
}

/// Starts endpoints.
#[derive(Debug)]
pub enum Endpoint {}

/// An endpoint at work. Dropping it stops it without waiting.
pub struct Running {
    address: SocketAddr,
    secure: bool,
    stop: watch::Sender<bool>,
    /// `None` once it was stopped.
    runtime: Option<Runtime>,
    served: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
    patience: Duration,
}

impl Endpoint {
    /// Listens on `address` and serves, on threads of its own. `tls` is for HTTP/1.1 as well; what
    /// gRPC needs is added here.
    ///
    /// When this returns, connections are accepted.
    ///
    /// # Errors
    ///
    /// [`StartError`], before anything is served.
    pub fn start(
        config: &Config,
        address: SocketAddr,
        tls: Option<ServerConfig>,
        parts: Parts,
    ) -> Result<Running, StartError> {
        let threads = |source| StartError::Threads { source };
        let runtime = runtime(&config.limits).map_err(threads)?;
        let listener = runtime.block_on(TcpListener::bind(address));
        let listener = listener.map_err(|source| match source.kind() {
            io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
            _ => StartError::Listen { address, source },
        })?;
        let address =
            listener.local_addr().map_err(|source| StartError::Listen { address, source })?;
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::new(shared(config, parts, address, stopping.clone()));
        let secure = tls.is_some();
        let door = Door {
            listener,
            tls: tls.map(over_http2),
            places: Arc::new(Semaphore::new(config.limits.connections)),
            patience: config.limits.header_timeout(),
        };
        let served = runtime.spawn(serve(door, shared, stopping));
        let patience = config.limits.shutdown();
        Ok(Running {
            address,
            secure,
            stop,
            runtime: Some(runtime),
            served: Some(served),
            patience,
        })
    }
}

impl Running {
    /// The address listened on, with the port that port 0 became.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What official clients take as their connection string, without the credentials.
    pub fn url(&self) -> String {
        let tls = if self.secure { "" } else { "?tls=false" };
        format!("kurrentdb://{}{tls}", self.address)
    }

    /// Accepts nothing more, ends subscriptions, finishes what was accepted, and returns when that is
    /// done or `limits.shutdown_ms` have passed. Blocks its thread, so it is not for async code.
    pub fn stop(mut self) {
        self.stop.send_replace(true);
        let (Some(runtime), Some(served)) = (self.runtime.take(), self.served.take()) else {
            return;
        };
        match runtime.block_on(async { timeout(self.patience, served).await }) {
            Ok(Ok(Ok(()))) => {}
            Ok(outcome) => tracing::error!(?outcome, "the KurrentDB protocol was served no longer"),
            Err(_) => tracing::warn!("clients of the KurrentDB protocol were cut off"),
        }
        runtime.shutdown_background();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

fn runtime(limits: &Limits) -> io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if limits.workers != 0 {
        builder.worker_threads(limits.workers);
    }
    builder.thread_name("grpc").enable_all().build()
}

fn shared(
    config: &Config,
    parts: Parts,
    address: SocketAddr,
    stopping: watch::Receiver<bool>,
) -> Shared {
    let Parts { ledger, access, clock } = parts;
    #[allow(clippy::disallowed_methods)] // names this start to clients; nothing derives from it
    let instance = Uuid::new_v4();
    Shared {
        ledger,
        access,
        clock,
        rate: RateLimiter::new(config.grpc.per_key_per_minute, config.grpc.burst),
        places: Arc::new(Semaphore::new(config.grpc.calls)),
        append_timeout: config.limits.request_timeout(),
        stopping,
        address,
        instance,
    }
}

/// A client that offers no protocol gets HTTP/2 all the same: nothing else is spoken here.
fn over_http2(mut tls: ServerConfig) -> TlsAcceptor {
    tls.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(tls))
}

async fn serve(
    door: Door,
    shared: Arc<Shared>,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (sender, receiver) = mpsc::channel(1);
    let accepting = tokio::spawn(door.accept(sender));
    let connections = stream::unfold(receiver, |mut receiver| async move {
        let connection = receiver.recv().await?;
        Some((Ok::<_, io::Error>(connection), receiver))
    });
    let stop = async move {
        // The sender lives as long as the endpoint.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        accepting.abort();
    };
    let calls = tower::service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, std::convert::Infallible>(dispatch::answer(&shared, request).await) }
    });
    Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(PING_AFTER))
        .http2_keepalive_timeout(Some(PING_ANSWERED_WITHIN))
        .serve_with_incoming_shutdown(calls, connections, stop)
        .await
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Door {
    async fn accept(self, sender: mpsc::Sender<Connection>) {
        loop {
            // More connections wait in the operating system. The semaphore is never closed.
            let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => self.greet(stream, permit, sender.clone()),
                Err(error) => {
                    // Mostly too many open files: trying again at once would not help.
                    tracing::warn!(%error, "a connection could not be accepted: {error}");
                    sleep(AFTER_FAILED_ACCEPT).await;
                }
            }
        }
    }

    /// Shakes hands on a task of its own, so that a slow client holds up nobody else.
    fn greet(
        &self,
        stream: TcpStream,
        permit: OwnedSemaphorePermit,
        sender: mpsc::Sender<Connection>,
    ) {
        // Small answers go out at once. A stream that refuses is broken, and its first read says so.
        let _ = stream.set_nodelay(true);
        let (tls, patience) = (self.tls.clone(), self.patience);
        tokio::spawn(async move {
            let connection = match tls {
                None => Connection::plain(stream, patience, permit),
                Some(tls) => match timeout(patience, tls.accept(stream)).await {
                    Ok(Ok(stream)) => Connection::secure(stream, patience, permit),
                    // The client's own log says why; here strangers could fill the log.
                    Ok(Err(_)) | Err(_) => return,
                },
            };
            // The receiver is gone when the endpoint stops.
            let _ = sender.send(connection).await;
        });
    }
}

/// Calls at once on one connection. Clients share one connection among all their subscriptions.
const STREAMS_PER_CONNECTION: u32 = 256;
/// A subscription is silent for hours; this finds out that its client is gone.
const PING_AFTER: Duration = Duration::from_secs(20);
const PING_ANSWERED_WITHIN: Duration = Duration::from_secs(10);
const AFTER_FAILED_ACCEPT: Duration = Duration::from_millis(100);

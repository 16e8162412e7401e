//! Starts the service on an address, and stops it when told.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use actix_http::{HttpService, KeepAlive, Request};
use actix_server::{GracefulShutdownSignal, ServerBuilder, ServerHandle};
use actix_service::{ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_tls::accept::rustls_0_23::{Acceptor, TlsStream};
use actix_web::body::BoxBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::middleware::from_fn;
use actix_web::rt::net::TcpStream;
use actix_web::{App, web};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::connection::{Guarded, Patience};
use super::{Shell, install, shell};
use crate::config::{Config, Limits, Tls};

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{address} is already in use; stop the other program or choose another with --listen")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
    },
    /// The operating system does not let us listen there.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file for HTTPS cannot be used.
    #[error("cannot use {setting} = {}; it has to be a readable PEM file", path.display())]
    TlsFile {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Certificate and key are readable but do not make a server.
    #[error("tls.certificate and tls.key do not belong together; set the pair of one server")]
    TlsPair {
        /// The reason of the TLS library.
        source: rustls::Error,
    },
    /// The threads of the server could not be started.
    #[error("cannot start the threads of the server; check the limits of the process")]
    Threads {
        /// What the operating system said.
        source: io::Error,
    },
}

/// Starts services.
#[derive(Debug)]
pub enum Server {}

/// A service at work. Dropping it stops the service without waiting.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    secure: bool,
    stop: StopHandle,
    /// `None` once somebody waits for it.
    ended: Option<Ended>,
}

/// Receives how the server ended.
type Ended = oneshot::Receiver<io::Result<()>>;

/// Stops a service from anywhere.
#[derive(Clone)]
pub struct StopHandle {
    server: ServerHandle,
    shell: Arc<Shell>,
}

impl Server {
    /// Listens on `config.listen` and serves `routes` inside `shell`, on threads of its own.
    ///
    /// When this returns, connections are accepted. `routes` runs once on each thread.
    ///
    /// # Errors
    ///
    /// [`StartError`], before anything is served.
    pub fn start<R>(config: &Config, shell: Shell, routes: R) -> Result<Running, StartError>
    where
        R: Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
    {
        let tls = tls_config(&config.tls)?;
        let secure = tls.is_some();
        let listener = listen(config.listen)?;
        let address = listener
            .local_addr()
            .map_err(|source| StartError::Listen { address: config.listen, source })?;
        let shell = Arc::new(shell);
        let builder = builder(&config.limits);
        let plan = Plan {
            shell: shell.clone(),
            routes,
            draining: builder.graceful_shutdown_signal(),
            limits: config.limits.clone(),
        };
        let builder = plan
            .serve(builder, listener, tls)
            .map_err(|source| StartError::Listen { address, source })?;
        let (ended, server) = run(builder).map_err(|source| StartError::Threads { source })?;
        let stop = StopHandle { server, shell };
        Ok(Running { address, secure, stop, ended: Some(ended) })
    }
}

impl Running {
    /// The address listened on, with the port that port 0 became.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL: `http://127.0.0.1:8290`.
    pub fn url(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Something to stop it with from another thread.
    pub fn stop_handle(&self) -> StopHandle {
        self.stop.clone()
    }

    /// Makes SIGTERM and SIGINT stop the service from here on.
    ///
    /// After the first signal it accepts nothing more and finishes what it accepted, for at most
    /// `limits.shutdown_ms`; a second signal ends that wait.
    ///
    /// # Errors
    ///
    /// When the operating system does not let us receive signals.
    pub fn stop_on_signals(&self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = runtime.enter();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        drop(guard);
        let stop = self.stop_handle();
        let listen = async move {
            for stop_now in [StopHandle::stop, StopHandle::abort] {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                stop_now(&stop);
            }
        };
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || runtime.block_on(listen))?;
        Ok(())
    }

    /// Waits until the service has stopped, because of a signal or a [`StopHandle`].
    /// Blocks its thread, so it is not for async code.
    ///
    /// # Errors
    ///
    /// When the server failed.
    pub fn wait(mut self) -> io::Result<()> {
        outcome(self.ended.take())
    }

    /// Accepts nothing more, finishes what was accepted, and returns when that is done or
    /// `limits.shutdown_ms` have passed.
    ///
    /// # Errors
    ///
    /// When the server failed.
    pub fn stop(self) -> io::Result<()> {
        self.stop.stop();
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.stop.abort();
        }
    }
}

impl StopHandle {
    /// Begins to stop: nothing more is accepted, what was accepted is finished. Returns at once.
    pub fn stop(&self) {
        self.shell.readiness().stop();
        // The command is sent here; the future only waits for its completion.
        drop(self.server.stop(true));
    }

    /// Stops without finishing anything. Returns at once.
    fn abort(&self) {
        drop(self.server.stop(false));
    }
}

impl std::fmt::Debug for StopHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StopHandle").finish_non_exhaustive()
    }
}

/// What each worker thread builds its service from.
#[derive(Clone)]
struct Plan<R> {
    shell: Arc<Shell>,
    routes: R,
    draining: GracefulShutdownSignal,
    limits: Limits,
}

impl<R: Fn(&mut web::ServiceConfig) + Clone + Send + 'static> Plan<R> {
    fn serve(
        self,
        builder: ServerBuilder,
        listener: TcpListener,
        tls: Option<ServerConfig>,
    ) -> io::Result<ServerBuilder> {
        match tls {
            None => builder.listen("http", listener, move || self.plain()),
            Some(config) => {
                let mut acceptor = Acceptor::new(config);
                acceptor.set_handshake_timeout(self.limits.header_timeout());
                builder.listen("https", listener, move || self.secure(acceptor.clone()))
            }
        }
    }

    fn plain(&self) -> impl ServiceFactory<TcpStream, Config = (), Response = ()> + use<R> {
        let patience = Patience::from(&self.limits);
        fn_service(move |stream: TcpStream| async move {
            let peer = prepare(&stream);
            Ok::<_, ()>((Guarded::new(stream, patience), peer))
        })
        .and_then(self.http().map_err(drop).map_init_err(drop))
    }

    fn secure(
        &self,
        acceptor: Acceptor,
    ) -> impl ServiceFactory<TcpStream, Config = (), Response = ()> + use<R> {
        let patience = Patience::from(&self.limits);
        let wrap = fn_service(move |stream: TlsStream<TcpStream>| async move {
            let peer = prepare(stream.get_ref().0);
            Ok::<_, ()>((Guarded::new(stream, patience), peer))
        });
        acceptor.map_err(drop).and_then(wrap).and_then(self.http().map_err(drop).map_init_err(drop))
    }

    /// HTTP/1.1 over any stream.
    fn http<T>(
        &self,
    ) -> actix_http::h1::H1Service<
        Guarded<T>,
        impl ServiceFactory<
            Request,
            Config = (),
            Response = ServiceResponse<BoxBody>,
            Error = actix_web::Error,
            InitError = (),
        > + use<T, R>,
        BoxBody,
    >
    where
        T: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let draining = self.draining.clone();
        HttpService::build()
            // `Guarded` has the timers for both.
            .keep_alive(KeepAlive::Os)
            .client_request_timeout(Duration::ZERO)
            .graceful_shutdown_signal(move || {
                let draining = draining.clone();
                async move { draining.notified().await }
            })
            .on_connect_ext(|stream: &Guarded<T>, data| {
                data.insert(stream.activity());
            })
            .h1(map_config(self.app(), |()| AppConfig::default()))
    }

    fn app(
        &self,
    ) -> impl ServiceFactory<
        Request,
        Config = AppConfig,
        Response = ServiceResponse<BoxBody>,
        Error = actix_web::Error,
        InitError = (),
    > + use<R> {
        let data = web::Data::from(self.shell.clone());
        let around = data.clone();
        let app = App::new()
            .app_data(data)
            .wrap(from_fn(move |request, next| shell::around(around.clone(), request, next)))
            .configure(|config| install(config, &self.limits))
            .configure(&self.routes);
        actix_service::IntoServiceFactory::into_factory(app)
    }
}

/// Small answers go out at once; the peer's address is for those who ask for it.
fn prepare(stream: &TcpStream) -> Option<SocketAddr> {
    // A stream that refuses either is broken, and its first read says so.
    let _ = stream.set_nodelay(true);
    stream.peer_addr().ok()
}

fn builder(limits: &Limits) -> ServerBuilder {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let workers = if limits.workers == 0 { cores } else { limits.workers };
    ServerBuilder::new()
        .workers(workers)
        .max_concurrent_connections(limits.connections.div_ceil(workers))
        .shutdown_timeout(limits.shutdown_ms.div_ceil(1_000))
        .disable_signals()
}

fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => StartError::AddressInUse { address },
        _ => StartError::Listen { address, source },
    })
}

/// Runs the server on a thread with a runtime of its own, so that callers need none.
fn run(builder: ServerBuilder) -> io::Result<(Ended, ServerHandle)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (started, handle) = mpsc::channel();
    let (ending, ended) = oneshot::channel();
    thread::Builder::new().name("http".to_owned()).spawn(move || {
        let result = runtime.block_on(async {
            let server = builder.run();
            // The receiver waits for this, or for the thread to end.
            let _ = started.send(server.handle());
            server.await
        });
        // Nobody may be waiting.
        let _ = ending.send(result);
    })?;
    match handle.recv() {
        Ok(handle) => Ok((ended, handle)),
        Err(_) => Err(outcome(Some(ended)).err().unwrap_or_else(died)),
    }
}

fn outcome(ended: Option<Ended>) -> io::Result<()> {
    ended.map_or(Ok(()), |ended| ended.blocking_recv().unwrap_or_else(|_| Err(died())))
}

fn died() -> io::Error {
    io::Error::other("a thread of the server panicked")
}

/// Certificate and key of the configuration, read and checked; `None` if there are none.
///
/// # Errors
///
/// [`StartError::TlsFile`] and [`StartError::TlsPair`].
pub fn tls_config(tls: &Tls) -> Result<Option<ServerConfig>, StartError> {
    let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) else {
        return Ok(None);
    };
    let pem = read_pem("tls.certificate", certificate)?;
    let chain = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| tls_file("tls.certificate", certificate, source))?;
    let pem = zeroize::Zeroizing::new(read_pem("tls.key", key)?);
    let key =
        PrivateKeyDer::from_pem_slice(&pem).map_err(|source| tls_file("tls.key", key, source))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| StartError::TlsPair { source })?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|source| StartError::TlsPair { source })?;
    Ok(Some(config))
}

fn read_pem(setting: &'static str, path: &Path) -> Result<Vec<u8>, StartError> {
    fs::read(path).map_err(|source| tls_file(setting, path, source))
}

fn tls_file(
    setting: &'static str,
    path: &Path,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> StartError {
    StartError::TlsFile { setting, path: path.to_owned(), source: source.into() }
}

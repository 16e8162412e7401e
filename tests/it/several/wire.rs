//! A wire that can be cut and slowed down: passes bytes on between clients and a server.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// They are closed.
    Closed,
    /// What the server says is lost from here on.
    ToClient,
    /// What the client says is lost from here on.
    ToServer,
    /// Both.
    BothWays,
}

/// The wire.
pub struct Wire {
    /// Where clients connect.
    pub port: u16,
    state: watch::Sender<State>,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// What the connections have in common.
#[derive(Default)]
struct Shared {
    /// How often it was cut: connections are of the time before or after.
    cuts: AtomicU64,
    /// Bytes that clients got.
    to_clients: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// The last cut, and the last time that it concerns.
    cut: Option<(u64, Cut)>,
    /// How long every byte is under way.
    delay: Duration,
}

impl Wire {
    /// Leads to `server`.
    pub fn start(server: u16) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, seen) = watch::channel(State::default());
        let shared = Arc::new(Shared::default());
        runtime.spawn(accept(listener, server, seen, Arc::clone(&shared)));
        Self { port, state, shared, runtime: Some(runtime) }
    }

    /// Cuts the connections that there are. New ones are not concerned.
    pub fn cut(&self, cut: Cut) {
        let before = self.shared.cuts.fetch_add(1, Ordering::SeqCst);
        self.state.send_modify(|state| state.cut = Some((before, cut)));
    }

    /// Cuts the connections that there are, and those that are made within `time`. Returns when later
    /// ones live.
    pub fn cut_for(&self, cut: Cut, time: Duration) {
        self.state.send_modify(|state| state.cut = Some((u64::MAX, cut)));
        std::thread::sleep(time);
        self.cut(cut);
    }

    /// From here on every byte is under way for so long, either way.
    pub fn slow_down(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// How many bytes clients have got so far.
    pub fn bytes_to_clients(&self) -> u64 {
        self.shared.to_clients.load(Ordering::SeqCst)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

async fn accept(
    listener: TcpListener,
    server: u16,
    state: watch::Receiver<State>,
    shared: Arc<Shared>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let born = shared.cuts.load(Ordering::SeqCst);
        let (state, shared) = (state.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await;
            let Ok(server) = server else { return };
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            let way = |way| Way { state: state.clone(), born, way, shared: Arc::clone(&shared) };
            let (up, down) = (way(Cut::ToServer), way(Cut::ToClient));
            tokio::join!(up.pass(from_client, to_server), down.pass(from_server, to_client));
        });
    }
}

/// One way of a connection.
struct Way {
    state: watch::Receiver<State>,
    born: u64,
    way: Cut,
    shared: Arc<Shared>,
}

impl Way {
    /// Passes bytes on, until the connection ends or is closed.
    async fn pass(self, from: OwnedReadHalf, to: OwnedWriteHalf) {
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::join!(self.take(from, sender), arrive(receiver, to));
    }

    /// Sends bytes on their way, with the time at which they arrive.
    async fn take(
        mut self,
        mut from: OwnedReadHalf,
        sender: mpsc::UnboundedSender<(Instant, Vec<u8>)>,
    ) {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let State { cut, delay } = *self.state.borrow_and_update();
            let cut = cut.filter(|(last, _)| *last >= self.born).map(|(_, cut)| cut);
            if cut == Some(Cut::Closed) {
                return;
            }
            let read = tokio::select! {
                read = from.read(&mut bytes) => read,
                Ok(()) = self.state.changed() => continue,
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) if cut == Some(self.way) || cut == Some(Cut::BothWays) => {}
                Ok(read) => {
                    if self.way == Cut::ToClient {
                        self.shared.to_clients.fetch_add(read as u64, Ordering::SeqCst);
                    }
                    if sender.send((Instant::now() + delay, bytes[..read].to_vec())).is_err() {
                        return;
                    }
                }
            }
        }
    }
}

async fn arrive(mut receiver: mpsc::UnboundedReceiver<(Instant, Vec<u8>)>, mut to: OwnedWriteHalf) {
    while let Some((at, bytes)) = receiver.recv().await {
        sleep_until(at).await;
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

//! A wire that can be cut: passes bytes on between clients and a server.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

/// What becomes of the connections that there are. New ones are not concerned.
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
    cut: watch::Sender<Option<(u64, Cut)>>,
    /// How often it was cut: connections are of the time before or after.
    cuts: Arc<AtomicU64>,
    runtime: Option<Runtime>,
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
        let (cut, state) = watch::channel(None);
        let cuts = Arc::new(AtomicU64::new(0));
        runtime.spawn(accept(listener, server, state, Arc::clone(&cuts)));
        Self { port, cut, cuts, runtime: Some(runtime) }
    }

    /// Cuts the connections that there are.
    pub fn cut(&self, cut: Cut) {
        let before = self.cuts.fetch_add(1, Ordering::SeqCst);
        self.cut.send_replace(Some((before, cut)));
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

type State = watch::Receiver<Option<(u64, Cut)>>;

async fn accept(listener: TcpListener, server: u16, state: State, cuts: Arc<AtomicU64>) {
    while let Ok((client, _)) = listener.accept().await {
        let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else { continue };
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let born = cuts.load(Ordering::SeqCst);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let up = pass(from_client, to_server, born, state.clone(), Cut::ToServer);
        let down = pass(from_server, to_client, born, state.clone(), Cut::ToClient);
        tokio::spawn(async move { tokio::join!(up, down) });
    }
}

/// Passes bytes on one way, until the connection ends or is closed.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    born: u64,
    mut state: State,
    way: Cut,
) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let cut = *state.borrow_and_update();
        let cut = cut.filter(|(before, _)| *before >= born).map(|(_, cut)| cut);
        if cut == Some(Cut::Closed) {
            return;
        }
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            Ok(()) = state.changed() => continue,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(_) if cut == Some(way) || cut == Some(Cut::BothWays) => {}
            Ok(read) => {
                if to.write_all(&bytes[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

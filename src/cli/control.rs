//! How a command reaches the process that serves the ledger.
//!
//! Only one process writes a ledger. While it serves, it listens on `control.sock` in the data
//! directory, which only its own user can reach: a command is one line of JSON, its answer another.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::admin::{Admin, Command, Outcome};

const SOCKET: &str = "control.sock";
/// A command with a million keys.
const COMMAND_BYTES_MAX: u64 = 256 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Outcome),
    Failed(String),
}

/// A listening control socket. Dropping it ends that.
pub struct Control {
    path: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

impl Control {
    /// Listens in the data directory. Whoever holds the ledger's lock may take the socket over.
    pub fn listen(
        data: &Path,
        admin: Arc<Admin>,
        runtime: &tokio::runtime::Runtime,
    ) -> anyhow::Result<Self> {
        let path = data.join(SOCKET);
        let failed = || format!("cannot listen on {}; use a shorter --data path", path.display());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(failed);
            }
            _ => {}
        }
        let _entered = runtime.enter();
        let listener = UnixListener::bind(&path).with_context(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(failed)?;
        let task = runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    if let Err(error) = serve(stream, &admin).await {
                        tracing::warn!(%error, "a control connection failed: {error}");
                    }
                });
            }
        });
        Ok(Self { path, task })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn serve(stream: UnixStream, admin: &Admin) -> anyhow::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = zeroize::Zeroizing::new(String::new());
    let mut reader = tokio::io::BufReader::new(read.take(COMMAND_BYTES_MAX));
    tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await??;
    let outcome = match serde_json::from_str::<Command>(&line) {
        Ok(command) => admin.execute(command).await,
        Err(_) => Err(anyhow::anyhow!("the serving process is of another version")),
    };
    let answer = match outcome {
        Ok(outcome) => Answer::Done(outcome),
        Err(error) => Answer::Failed(super::one_line(&error)),
    };
    let mut answer = zeroize::Zeroizing::new(serde_json::to_vec(&answer)?);
    answer.push(b'\n');
    write.write_all(&answer).await?;
    Ok(())
}

/// Has a command carried out by the process that serves the ledger in `data`; `None` if none does.
pub fn ask(data: &Path, command: &Command) -> anyhow::Result<Option<Outcome>> {
    let mut stream = match BlockingStream::connect(data.join(SOCKET)) {
        Ok(stream) => stream,
        Err(error) => match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => return Ok(None),
            _ => {
                return Err(error).context(
                    "cannot reach the serving process; run this as the user who runs the service",
                );
            }
        },
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = zeroize::Zeroizing::new(serde_json::to_vec(command)?);
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = zeroize::Zeroizing::new(String::new());
    BufReader::new(stream).read_line(&mut answer)?;
    match serde_json::from_str(&answer).context("the serving process went away")? {
        Answer::Done(outcome) => Ok(Some(outcome)),
        Answer::Failed(reason) => Err(anyhow::anyhow!(reason)),
    }
}

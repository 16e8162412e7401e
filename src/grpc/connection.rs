//! One connection: plain or TLS, counted, and not for those who never begin.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// The bytes that each HTTP/2 connection begins with (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

pub(super) struct Connection {
    stream: Stream,
    /// Until the preface is there.
    patience: Option<Patience>,
    _permit: OwnedSemaphorePermit,
}

enum Stream {
    Plain(TcpStream),
    Secure(Box<TlsStream<TcpStream>>),
}

struct Patience {
    ends: Pin<Box<Sleep>>,
    missing_bytes: usize,
}

impl Connection {
    /// A connection whose client has to begin within `patience`.
    pub(super) fn plain(
        stream: TcpStream,
        patience: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(Stream::Plain(stream), patience, permit)
    }

    /// The same over TLS, after the handshake.
    pub(super) fn secure(
        stream: TlsStream<TcpStream>,
        patience: Duration,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self::new(Stream::Secure(Box::new(stream)), patience, permit)
    }

    fn new(stream: Stream, patience: Duration, permit: OwnedSemaphorePermit) -> Self {
        let patience = Patience { ends: Box::pin(sleep(patience)), missing_bytes: PREFACE_BYTES };
        Self { stream, patience: Some(patience), _permit: permit }
    }
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(patience) = &mut this.patience
            && patience.ends.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Secure(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        ready!(read)?;
        if let Some(patience) = &mut this.patience {
            let bytes = buffer.filled().len() - before;
            patience.missing_bytes = patience.missing_bytes.saturating_sub(bytes);
            if patience.missing_bytes == 0 {
                this.patience = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Secure(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Secure(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Secure(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Secure(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Secure(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

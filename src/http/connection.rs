//! Bounds how long a client may hold a connection without giving or taking anything.
//!
//! The HTTP library has timers for the first request head of a connection and for an idle
//! connection, half a second coarse, and none for anything else: a client that sends one byte of
//! its second request, or that never reads its answer, would hold the connection for good.
//! [`Guarded`] wraps the stream, bounds all of it, and takes the place of those timers:
//!
//! | phase | bound |
//! |---|---|
//! | connected, no request yet | header timeout |
//! | idle after an answer | keep-alive |
//! | a request head has begun | header timeout |
//! | a request is worked on | none here: the shell times body and answer |
//! | the client takes nothing of an answer | body timeout |
//!
//! A connection over its bound is closed without an answer.

use std::cell::Cell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::Limits;

/// What the shell and the stream of one connection tell each other. Lives on one thread.
#[derive(Clone, Default)]
pub(super) struct Activity(Rc<State>);

#[derive(Default)]
struct State {
    working: Cell<bool>,
    finished: Cell<u64>,
}

impl Activity {
    /// Marks that a request is worked on, until the returned value is dropped.
    pub(super) fn begin(&self) -> Working {
        self.0.working.set(true);
        Working(self.clone())
    }
}

/// A request is worked on as long as this lives.
pub(super) struct Working(Activity);

impl Drop for Working {
    fn drop(&mut self) {
        let state = &self.0.0;
        state.working.set(false);
        state.finished.set(state.finished.get() + 1);
    }
}

/// The bounds of a connection.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    idle: Duration,
    head: Duration,
    write: Duration,
}

impl From<&Limits> for Patience {
    fn from(limits: &Limits) -> Self {
        let head = limits.header_timeout();
        Self { idle: limits.keep_alive() + head, head, write: limits.body_timeout() }
    }
}

/// A stream that ends itself when its client stalls.
pub(super) struct Guarded<T> {
    stream: T,
    activity: Activity,
    patience: Patience,
    /// Requests finished when the present idle phase began.
    phase: Option<u64>,
    /// The header timeout runs: from the first byte on, or from the start of the connection.
    head_begun: bool,
    reading: Alarm,
    writing: Alarm,
}

impl<T> Guarded<T> {
    pub(super) fn new(stream: T, patience: Patience) -> Self {
        Self {
            stream,
            activity: Activity::default(),
            patience,
            phase: None,
            head_begun: false,
            reading: Alarm::default(),
            writing: Alarm::default(),
        }
    }

    /// To be handed to the shell with each request of this connection.
    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Starts the clock of an idle phase once in each.
    fn enter_idle_phase(&mut self) {
        let finished = Some(self.activity.0.finished.get());
        if self.phase != finished {
            self.phase = finished;
            self.head_begun = finished == Some(0);
            self.reading.set(if self.head_begun { self.patience.head } else { self.patience.idle });
        }
    }

    /// Called when nothing can be read: is the client still entitled to wait?
    fn wait_to_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.activity.0.working.get() {
            return Poll::Pending;
        }
        self.enter_idle_phase();
        self.reading.poll(cx).map(|()| Err(stalled()))
    }

    fn note_read(&mut self) {
        if !self.activity.0.working.get() {
            self.enter_idle_phase();
            if !self.head_begun {
                self.head_begun = true;
                self.reading.set(self.patience.head);
            }
        }
    }

    /// A client that takes its answer is not idle: the clock starts again with each piece.
    fn note_write(&mut self, outcome: &Poll<io::Result<usize>>) {
        if matches!(outcome, Poll::Ready(Ok(1..))) && !self.activity.0.working.get() {
            self.enter_idle_phase();
            self.reading.set(if self.head_begun { self.patience.head } else { self.patience.idle });
        }
    }

    /// Called with the outcome of every write and flush: ends the wait or watches it.
    fn watch_write<R>(
        &mut self,
        outcome: Poll<io::Result<R>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<R>> {
        if outcome.is_ready() {
            self.writing.clear();
            // The library may have tried to read before the answer was there to be written, and
            // not try again until it is woken: here is where the idle phase gets its waker.
            return match self.wait_to_read(cx) {
                Poll::Ready(Err(stalled)) => Poll::Ready(Err(stalled)),
                _ => outcome,
            };
        }
        self.writing.set_if_clear(self.patience.write);
        self.writing.poll(cx).map(|()| Err(stalled()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(cx, buf) {
            Poll::Pending => this.wait_to_read(cx),
            ready => {
                if buf.filled().len() > before {
                    this.note_read();
                }
                ready
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_write(&outcome);
        this.watch_write(outcome, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_write(&outcome);
        this.watch_write(outcome, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_flush(cx);
        this.watch_write(outcome, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let outcome = Pin::new(&mut this.stream).poll_shutdown(cx);
        this.watch_write(outcome, cx)
    }
}

/// One timer, kept between uses.
#[derive(Default)]
struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    set: bool,
}

impl Alarm {
    fn set(&mut self, wait: Duration) {
        let at = Instant::now() + wait;
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().reset(at),
            None => self.sleep = Some(Box::pin(sleep_until(at))),
        }
        self.set = true;
    }

    fn set_if_clear(&mut self, wait: Duration) {
        if !self.set {
            self.set(wait);
        }
    }

    const fn clear(&mut self) {
        self.set = false;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) if self.set => sleep.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }
}

fn stalled() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the client stalled")
}

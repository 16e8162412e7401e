//! Where appends wait for the writer: bounded, and taken all at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::ledger::append::{Answer, Append, AppendError, Unavailable};

/// An append that waits, and where its answer goes.
pub(super) struct Pending {
    pub(super) append: Append,
    pub(super) reply: oneshot::Sender<Answer>,
}

impl Pending {
    /// Answers. Nobody may listen any more, and that is fine.
    pub(super) fn answer(self, answer: Answer) {
        drop(self.reply.send(answer));
    }
}

/// The bounded queue in front of the writer.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    appends_max: usize,
    bytes_max: usize,
}

#[derive(Default)]
struct Waiting {
    appends: Vec<Pending>,
    bytes: usize,
    /// How many appends the writer waits for. Waking it for each one costs more than the append.
    wanted: usize,
    /// Set once the queue takes no more, with the reason.
    ended: Option<Unavailable>,
}

impl Queue {
    pub(super) fn new(appends_max: usize, bytes_max: usize) -> Self {
        Self { waiting: Mutex::default(), arrived: Condvar::new(), appends_max, bytes_max }
    }

    /// Lets an append wait, or refuses it at once. An append that alone exceeds the bytes is taken
    /// by an empty queue.
    pub(super) fn push(&self, pending: Pending) -> Result<(), Unavailable> {
        let bytes = pending.append.size_bytes();
        let mut waiting = self.lock();
        if let Some(reason) = &waiting.ended {
            return Err(reason.clone());
        }
        let full = waiting.appends.len() >= self.appends_max
            || waiting.bytes.saturating_add(bytes) > self.bytes_max;
        if full && !waiting.appends.is_empty() {
            return Err(Unavailable::QueueFull);
        }
        waiting.bytes += bytes;
        waiting.appends.push(pending);
        let enough = waiting.appends.len() == waiting.wanted;
        drop(waiting);
        if enough {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Takes everything that waits, and waits for something if there is nothing, and for `wanted`
    /// appends as long as more keep coming. `None` once the queue has ended and is empty.
    pub(super) fn take(&self, wanted: usize) -> Option<Vec<Pending>> {
        let mut waiting = self.lock();
        waiting.wanted = 1;
        while waiting.appends.is_empty() {
            if waiting.ended.is_some() {
                return None;
            }
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting = self.gather(waiting, wanted);
        waiting.wanted = 0;
        waiting.bytes = 0;
        Some(std::mem::take(&mut waiting.appends))
    }

    /// Waits for `wanted` appends as long as more of them keep coming.
    fn gather<'a>(
        &self,
        mut waiting: MutexGuard<'a, Waiting>,
        wanted: usize,
    ) -> MutexGuard<'a, Waiting> {
        waiting.wanted = wanted;
        let few = |waiting: &mut Waiting| {
            waiting.appends.len() < waiting.wanted && waiting.ended.is_none()
        };
        for _ in 0..PACES {
            let before = waiting.appends.len();
            let (gathered, timeout) = self
                .arrived
                .wait_timeout_while(waiting, PACE, few)
                .unwrap_or_else(PoisonError::into_inner);
            waiting = gathered;
            if !timeout.timed_out() || waiting.appends.len() == before {
                break;
            }
        }
        waiting
    }

    /// Takes no more. What waits is still taken by the writer.
    pub(super) fn close(&self) {
        self.lock().ended.get_or_insert(Unavailable::Closed);
        self.arrived.notify_all();
    }

    /// Takes no more, and refuses what waits: the writer is gone, or goes.
    pub(super) fn stop(&self, reason: &Unavailable) {
        let mut waiting = self.lock();
        let reason = waiting.ended.get_or_insert_with(|| reason.clone()).clone();
        let refused = std::mem::take(&mut waiting.appends);
        drop(waiting);
        for pending in refused {
            pending.answer(Err(AppendError::Unavailable(reason.clone())));
        }
    }

    // A list of appends is whole after any panic.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waiting goes on while each such span brings an append: writers that were answered together first
/// seal and send what they were answered.
const PACE: Duration = Duration::from_millis(1);
/// For so many spans at most.
const PACES: usize = 3;

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ledger::{NewEvent, StreamName};

    fn pending() -> (Pending, oneshot::Receiver<Answer>) {
        let (reply, answer) = oneshot::channel();
        (Pending { append: Append::default(), reply }, answer)
    }

    #[test]
    fn refuses_at_once_when_full_and_takes_again_when_emptied() {
        let queue = Queue::new(2, 1000);
        queue.push(pending().0).unwrap();
        queue.push(pending().0).unwrap();
        assert!(matches!(queue.push(pending().0), Err(Unavailable::QueueFull)));
        assert_eq!(queue.take(1).unwrap().len(), 2);
        queue.push(pending().0).unwrap();
    }

    /// One that waits with events of so many bytes.
    fn sized(bytes: usize) -> Pending {
        let event = NewEvent {
            id: Uuid::nil(),
            kind: "".into(),
            data: vec![0; bytes],
            metadata: Vec::new(),
        };
        let records = vec![(StreamName::new("a").unwrap(), event)];
        Pending { append: Append { records, checks: Vec::new() }, ..pending().0 }
    }

    #[test]
    fn bytes_count_as_well_and_are_counted_anew_once_they_are_taken() {
        let queue = Queue::new(10, 2_000);
        for _ in 0..3 {
            queue.push(sized(900)).unwrap();
            queue.push(sized(900)).unwrap();
            assert!(matches!(queue.push(sized(900)), Err(Unavailable::QueueFull)));
            assert_eq!(queue.take(1).unwrap().len(), 2);
        }
        // Alone, more than the queue holds is let in.
        queue.push(sized(5_000)).unwrap();
        assert!(matches!(queue.push(sized(1)), Err(Unavailable::QueueFull)));
    }

    #[test]
    fn a_closed_queue_hands_out_what_waits_and_then_ends() {
        let queue = Queue::new(2, 1000);
        queue.push(pending().0).unwrap();
        queue.close();
        assert!(matches!(queue.push(pending().0), Err(Unavailable::Closed)));
        assert_eq!(queue.take(1).unwrap().len(), 1);
        assert!(queue.take(1).is_none());
    }

    #[test]
    fn a_stopped_queue_refuses_what_waits() {
        let queue = Queue::new(2, 1000);
        let (waiting, mut answer) = pending();
        queue.push(waiting).unwrap();
        queue.stop(&Unavailable::Stopped);
        let refused = answer.try_recv().unwrap();
        assert!(matches!(refused, Err(AppendError::Unavailable(Unavailable::Stopped))));
        assert!(matches!(queue.push(pending().0), Err(Unavailable::Stopped)));
    }
}

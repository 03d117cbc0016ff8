//! The sending half of a stream: frames gather in one buffer, and one writer puts out whatever has gathered.
//!
//! Batching what is ready is what makes frames cheap. The buffer is bounded: senders wait while it is full, and a peer
//! that takes nothing for the idle timeout is given up. A lane does not know what its frames mean.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use bytes::BytesMut;
use quinn::SendStream;
use quinn::WriteError;
use tokio::sync::Notify;

use crate::limits;
use crate::net::counters::NetCounters;

/// The lane is closed; nothing more goes out on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneClosed;

/// Why a writer ended before its lane was closed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteFailed {
    #[error("the other side took nothing for {0:?}")]
    Stalled(Duration),
    #[error("the stream broke: {0}")]
    Stream(#[from] WriteError),
}

/// Frames on their way into one stream.
pub(crate) struct Lane {
    buffer: Mutex<Buffer>,
    ready: Notify,
    space: Notify,
    counters: Arc<NetCounters>,
}

#[derive(Default)]
struct Buffer {
    bytes: BytesMut,
    closed: bool,
}

impl Lane {
    pub(crate) fn new(counters: Arc<NetCounters>) -> Self {
        Self { buffer: Mutex::default(), ready: Notify::new(), space: Notify::new(), counters }
    }

    fn lock(&self) -> MutexGuard<'_, Buffer> {
        // A sender that panicked while encoding leaves half a frame; the writer then closes the lane.
        self.buffer.lock().unwrap_or_else(|poisoned: PoisonError<_>| {
            let mut buffer = poisoned.into_inner();
            buffer.closed = true;
            buffer.bytes.clear();
            buffer
        })
    }

    /// Lets `put` append to the buffer, once there is room. Cancel-safe: `put` has run when this returns, or not at all.
    pub(crate) async fn push<T>(&self, put: impl FnOnce(&mut BytesMut) -> T) -> Result<T, LaneClosed> {
        let put = match self.try_push(put) {
            Ok(result) => return result,
            Err(put) => put,
        };
        self.counters.lane_full_waits.one();
        let mut put = put;
        loop {
            let space = self.space.notified();
            // Asked again after registering for news, so that none is missed.
            match self.try_push(put) {
                Ok(result) => return result,
                Err(again) => put = again,
            }
            space.await;
        }
    }

    /// Appends if there is room, without waiting.
    pub(crate) fn push_if_room(&self, put: impl FnOnce(&mut BytesMut)) {
        // Both ways to fail leave nothing to do: the lane is closed, or full because nobody reads.
        let _ = self.try_push(put).is_ok();
    }

    /// Appends if there is room; gives `put` back if there is none.
    fn try_push<T, F: FnOnce(&mut BytesMut) -> T>(&self, put: F) -> Result<Result<T, LaneClosed>, F> {
        let mut buffer = self.lock();
        if buffer.closed {
            return Ok(Err(LaneClosed));
        }
        if buffer.bytes.len() >= limits::LANE_BUFFER_MAX {
            return Err(put);
        }
        let was_empty = buffer.bytes.is_empty();
        let result = put(&mut buffer.bytes);
        drop(buffer);
        if was_empty {
            self.ready.notify_one();
        }
        Ok(Ok(result))
    }

    /// Takes no more frames; what is in the buffer still goes out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.ready.notify_one();
        self.space.notify_waiters();
    }

    /// Whether it takes frames.
    pub(crate) fn is_open(&self) -> bool {
        !self.lock().closed
    }

    /// Bytes that wait to be written.
    pub(crate) fn queued(&self) -> usize {
        self.lock().bytes.len()
    }

    fn take(&self) -> Option<Bytes> {
        let mut buffer = self.lock();
        if buffer.bytes.is_empty() {
            return if buffer.closed { None } else { Some(Bytes::new()) };
        }
        let was_full = buffer.bytes.len() >= limits::LANE_BUFFER_MAX;
        let batch = buffer.bytes.split().freeze();
        drop(buffer);
        if was_full {
            self.space.notify_waiters();
        }
        Some(batch)
    }

    /// Puts out what gathers until the lane is closed and drained, then waits until the peer has it all.
    pub(crate) async fn write(&self, mut stream: SendStream, patience: Duration) -> Result<(), WriteFailed> {
        let result = self.write_batches(&mut stream, patience).await;
        if result.is_err() {
            self.close();
            return result;
        }
        // Both fail only when the stream or connection is gone already, and then nothing is left to wait for.
        if stream.finish().is_ok() {
            drop(tokio::time::timeout(patience, stream.stopped()).await);
        }
        Ok(())
    }

    async fn write_batches(&self, stream: &mut SendStream, patience: Duration) -> Result<(), WriteFailed> {
        while let Some(batch) = self.take() {
            if batch.is_empty() {
                self.ready.notified().await;
                // Whoever else is about to send gets its turn first, so that one write carries all of it.
                tokio::task::yield_now().await;
                continue;
            }
            self.counters.batches_sent.one();
            self.counters.bytes_sent.count(batch.len());
            write_chunk(stream, batch, patience).await?;
        }
        Ok(())
    }
}

/// Writes all of a chunk. Fails when the peer takes nothing for `patience`, however long the whole takes.
pub(crate) async fn write_chunk(stream: &mut SendStream, chunk: Bytes, patience: Duration) -> Result<(), WriteFailed> {
    let mut chunks = [chunk];
    while !chunks[0].is_empty() {
        let written = tokio::time::timeout(patience, stream.write_chunks(&mut chunks)).await;
        let written = written.map_err(|_| WriteFailed::Stalled(patience))??;
        if written.chunks == 1 {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::BufMut;

    use super::*;

    #[tokio::test]
    async fn senders_wait_while_the_lane_is_full_and_go_on_when_it_drains() {
        let lane = Arc::new(Lane::new(Arc::default()));
        lane.push(|buffer| buffer.put_bytes(1, limits::LANE_BUFFER_MAX)).await.unwrap();
        let mut waiting = Box::pin(lane.push(|buffer| buffer.put_u8(2)));
        let full = futures_poll(&mut waiting).await;
        assert!(full.is_none(), "the lane took more than its bound");
        assert_eq!(lane.counters.lane_full_waits.get(), 1);
        assert_eq!(lane.take().unwrap().len(), limits::LANE_BUFFER_MAX);
        waiting.await.unwrap();
        assert_eq!(&lane.take().unwrap()[..], [2]);
    }

    #[tokio::test]
    async fn a_waiting_sender_that_gives_up_leaves_nothing_behind() {
        let lane = Lane::new(Arc::default());
        lane.push(|buffer| buffer.put_bytes(1, limits::LANE_BUFFER_MAX)).await.unwrap();
        let mut waiting = Box::pin(lane.push(|buffer| buffer.put_u8(2)));
        assert!(futures_poll(&mut waiting).await.is_none());
        drop(waiting);
        assert_eq!(lane.take().unwrap().len(), limits::LANE_BUFFER_MAX);
        assert!(lane.take().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_closed_lane_refuses_senders_and_still_drains() {
        let lane = Lane::new(Arc::default());
        lane.push(|buffer| buffer.put_u8(1)).await.unwrap();
        lane.close();
        assert_eq!(lane.push(|buffer| buffer.put_u8(2)).await, Err(LaneClosed));
        assert_eq!(&lane.take().unwrap()[..], [1]);
        assert!(lane.take().is_none());
    }

    /// Polls once.
    async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        std::future::poll_fn(|cx| match std::pin::Pin::new(&mut *future).poll(cx) {
            std::task::Poll::Ready(output) => std::task::Poll::Ready(Some(output)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}

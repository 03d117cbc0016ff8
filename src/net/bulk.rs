//! Writing a single large frame on a stream of its own, at lower priority than the lanes.

use std::time::Duration;

use bytes::Bytes;
use quinn::SendStream;
use tokio::sync::Semaphore;
use tokio::sync::SemaphorePermit;

use crate::limits;
use crate::net::lane::WriteFailed;
use crate::net::lane::write_chunk;

/// Below the lanes, which have QUIC's default of 0.
const PRIORITY: i32 = -1;

/// Waits for a share of the connection's send window, which large frames must not fill: lanes need the rest of it.
pub(crate) async fn acquire(window: &Semaphore, bytes: usize) -> Option<SemaphorePermit<'_>> {
    let share = u32::try_from(bytes.min(limits::FRAME_MAX)).unwrap_or(u32::MAX);
    // Fails only when the semaphore is closed, which nobody does.
    window.acquire_many(share).await.ok()
}

/// Writes the parts and ends the stream. When it is dropped or fails half way the stream is reset, and the peer
/// discards what it has.
pub(crate) async fn send(stream: SendStream, parts: [Bytes; 2], patience: Duration) -> Result<Sent, WriteFailed> {
    let mut sent = Sent(Some(stream));
    if let Some(stream) = sent.0.as_mut() {
        // Fails only for a stream that is closed, and then the write says so.
        drop(stream.set_priority(PRIORITY));
        for part in parts {
            write_chunk(stream, part, patience).await?;
        }
        drop(stream.finish());
    }
    Ok(sent)
}

/// A frame on its way. What has not gone out yet stays where it is when this is dropped: nobody waits for it any more.
pub(crate) struct Sent(Option<SendStream>);

impl Sent {
    /// Lets it go out whole.
    pub(crate) fn leave(mut self) -> Option<SendStream> {
        self.0.take()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(mut stream) = self.0.take() {
            // Fails only when the stream is over already.
            drop(stream.reset(quinn::VarInt::from_u32(0)));
        }
    }
}

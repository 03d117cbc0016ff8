//! How requests and replies lie in a stream of bytes.
//!
//! A frame is a length (u32, little endian, of what follows) and then either a request: id (u64), milliseconds left
//! until its deadline (u32), body; or a reply: id (u64), status (u8), body. Every stream begins with one byte that says
//! what it is: a lane of many frames, or a bulk stream of a single frame too large for a lane, whose body may be packed (`pack`).

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;
use quinn::ReadError;
use quinn::RecvStream;
use tokio::io::AsyncReadExt;

use crate::limits;
use crate::net::pack;

/// First byte of a lane.
pub(crate) const LANE: u8 = 1;
/// First byte of a bulk stream.
pub(crate) const BULK: u8 = 2;
/// First byte of a bulk stream on which the bodies of the request and of its reply are packed.
pub(crate) const PACKED: u8 = 3;

const LENGTH: usize = size_of::<u32>();
const REQUEST_HEAD: usize = size_of::<u64>() + size_of::<u32>();
const REPLY_HEAD: usize = size_of::<u64>() + size_of::<u8>();
/// The longest of the heads, which limits do not count.
const HEAD_MAX: usize = REQUEST_HEAD;
/// Room a reader asks for at a time: a few packets' worth for a slow stream, one system call's for a fast one.
const READ_AHEAD: usize = 32 * 1024;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was handled; the body is the reply.
    Done = 0,
    /// Its deadline passed before it was started.
    Expired = 1,
    /// Its reply is larger than [`limits::FRAME_MAX`]; the body is empty.
    ReplyTooLarge = 2,
    /// The handler broke off; it may have done part of the work.
    Broken = 3,
}

/// The head of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) id: u64,
    pub(crate) deadline_ms: u32,
}

/// Why a stream's bytes are not frames.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of {length} bytes came where at most {max} are allowed")]
    Oversize { length: usize, max: usize },
    #[error("a frame is malformed")]
    Malformed,
    #[error("the stream ended inside a frame")]
    Truncated,
    #[error("the stream broke: {0}")]
    Read(#[from] ReadError),
}

/// What a frame written into a lane's buffer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It lies in the buffer.
    Lane,
    /// It was too large for a lane and was taken out again, complete: it goes on a bulk stream.
    Bulk(Bytes),
    /// It is too large altogether; nothing of it is left in the buffer.
    TooLarge(usize),
}

/// Writes a request to the end of the buffer.
pub(crate) fn put_request(buffer: &mut BytesMut, head: RequestHead, encode: impl FnOnce(&mut BytesMut)) -> Placed {
    put(buffer, |buffer| {
        buffer.put_u64_le(head.id);
        buffer.put_u32_le(head.deadline_ms);
        encode(buffer);
    })
}

/// Writes a reply that fits a lane to the end of the buffer.
pub(crate) fn put_reply(buffer: &mut BytesMut, id: u64, status: Status, body: &[u8]) {
    buffer.reserve(LENGTH + REPLY_HEAD + body.len());
    let placed = put(buffer, |buffer| put_reply_head(buffer, id, status).put_slice(body));
    debug_assert_eq!(placed, Placed::Lane, "the caller sends large replies on streams of their own");
}

/// The beginning of a bulk stream of this kind that carries this request or reply head and then `body` bytes.
pub(crate) fn bulk_prefix(kind: u8, body: usize, head: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut prefix = BytesMut::with_capacity(1 + LENGTH + HEAD_MAX);
    prefix.put_u8(kind);
    prefix.put_u32_le(0);
    head(&mut prefix);
    let length = prefix.len() - 1 - LENGTH + body;
    prefix[1..=LENGTH].copy_from_slice(&length_bytes(length));
    prefix.freeze()
}

/// Writes the head of a request.
pub(crate) fn put_request_head(buffer: &mut BytesMut, head: RequestHead) {
    buffer.put_u64_le(head.id);
    buffer.put_u32_le(head.deadline_ms);
}

/// Writes the head of a reply.
pub(crate) fn put_reply_head(buffer: &mut BytesMut, id: u64, status: Status) -> &mut BytesMut {
    buffer.put_u64_le(id);
    buffer.put_u8(status as u8);
    buffer
}

fn put(buffer: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) -> Placed {
    let start = buffer.len();
    buffer.put_u32_le(0);
    write(buffer);
    let length = buffer.len() - start - LENGTH;
    if length > limits::FRAME_MAX + HEAD_MAX {
        buffer.truncate(start);
        return Placed::TooLarge(length);
    }
    buffer[start..start + LENGTH].copy_from_slice(&length_bytes(length));
    if length <= limits::LANE_FRAME_MAX + HEAD_MAX {
        Placed::Lane
    } else {
        Placed::Bulk(buffer.split_off(start).freeze())
    }
}

fn length_bytes(length: usize) -> [u8; LENGTH] {
    u32::try_from(length).expect("a frame's length was checked against FRAME_MAX").to_le_bytes()
}

/// Takes the head off a request frame; the body is left.
pub(crate) fn take_request(frame: &mut Bytes) -> Result<RequestHead, FrameError> {
    if frame.len() < REQUEST_HEAD {
        return Err(FrameError::Malformed);
    }
    Ok(RequestHead { id: frame.get_u64_le(), deadline_ms: frame.get_u32_le() })
}

/// Takes the head off a reply frame; the body is left.
pub(crate) fn take_reply(frame: &mut Bytes) -> Result<(u64, Status), FrameError> {
    if frame.len() < REPLY_HEAD {
        return Err(FrameError::Malformed);
    }
    let id = frame.get_u64_le();
    let code = frame.get_u8();
    let known = [Status::Done, Status::Expired, Status::ReplyTooLarge, Status::Broken];
    let status = known.into_iter().find(|status| *status as u8 == code).ok_or(FrameError::Malformed)?;
    Ok((id, status))
}

/// Splits what arrives on a stream into frames. Bytes are copied once, out of the packets; frames share the buffer.
pub(crate) struct FrameReader {
    stream: RecvStream,
    splitter: Splitter,
}

impl FrameReader {
    /// A reader of a stream whose frames may be as large as a lane allows.
    pub(crate) fn lane(stream: RecvStream) -> Self {
        Self { stream, splitter: Splitter::new(limits::LANE_FRAME_MAX + HEAD_MAX) }
    }

    /// A reader of a stream with a single large frame.
    pub(crate) fn bulk(stream: RecvStream) -> Self {
        Self { stream, splitter: Splitter::new(limits::FRAME_MAX + HEAD_MAX + pack::LENGTH) }
    }

    /// The byte that says what the stream is; `None` when it ended before.
    pub(crate) async fn kind(stream: &mut RecvStream) -> Result<Option<u8>, FrameError> {
        let mut kind = [0];
        let read = stream.read(&mut kind).await?;
        Ok(read.map(|_| kind[0]))
    }

    /// Waits until more bytes are there. `false` when the stream ended, between frames. Cancel-safe.
    pub(crate) async fn fill(&mut self) -> Result<bool, FrameError> {
        self.splitter.make_room();
        let read = self.stream.read_buf(&mut self.splitter.buffer).await.map_err(read_error)?;
        if read > 0 {
            return Ok(true);
        }
        if self.splitter.buffer.is_empty() { Ok(false) } else { Err(FrameError::Truncated) }
    }

    /// The next frame, without its length, if it has arrived whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        self.splitter.next()
    }

    /// The length of the frame that has begun to arrive.
    pub(crate) fn announced(&self) -> Option<usize> {
        self.splitter.announced()
    }

    /// Waits for one whole frame.
    pub(crate) async fn whole(&mut self) -> Result<Bytes, FrameError> {
        loop {
            if let Some(frame) = self.next()? {
                return Ok(frame);
            }
            if !self.fill().await? {
                return Err(FrameError::Truncated);
            }
        }
    }
}

fn read_error(error: std::io::Error) -> FrameError {
    match error.downcast::<ReadError>() {
        Ok(error) => FrameError::Read(error),
        Err(_) => FrameError::Truncated,
    }
}

/// Cuts bytes into frames.
struct Splitter {
    buffer: BytesMut,
    max: usize,
}

impl Splitter {
    fn new(max: usize) -> Self {
        Self { buffer: BytesMut::new(), max }
    }

    fn announced(&self) -> Option<usize> {
        let length = self.buffer.first_chunk::<LENGTH>()?;
        usize::try_from(u32::from_le_bytes(*length)).ok()
    }

    /// Makes room for the rest of the frame that has begun, or for the usual read.
    fn make_room(&mut self) {
        let wanted = match self.announced() {
            Some(length) if length <= self.max => (LENGTH + length).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        if self.buffer.capacity() - self.buffer.len() < wanted.max(READ_AHEAD / 4) {
            self.buffer.reserve(wanted.max(READ_AHEAD));
        }
    }

    fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(length) = self.announced() else { return Ok(None) };
        if length > self.max {
            return Err(FrameError::Oversize { length, max: self.max });
        }
        if self.buffer.len() < LENGTH + length {
            return Ok(None);
        }
        self.buffer.advance(LENGTH);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(buffer: &mut BytesMut, id: u64, body: &[u8]) -> Placed {
        put_request(buffer, RequestHead { id, deadline_ms: 7 }, |buffer| buffer.put_slice(body))
    }

    #[test]
    fn frames_have_this_form() {
        let mut buffer = BytesMut::new();
        assert_eq!(request(&mut buffer, 5, b"ab"), Placed::Lane);
        assert_eq!(&buffer[..], b"\x0e\0\0\0\x05\0\0\0\0\0\0\0\x07\0\0\0ab");
        buffer.clear();
        put_reply(&mut buffer, 5, Status::Expired, b"c");
        assert_eq!(&buffer[..], b"\x0a\0\0\0\x05\0\0\0\0\0\0\0\x01c");
        let prefix = bulk_prefix(BULK, 300, |prefix| put_request_head(prefix, RequestHead { id: 5, deadline_ms: 7 }));
        assert_eq!(&prefix[..], b"\x02\x38\x01\0\0\x05\0\0\0\0\0\0\0\x07\0\0\0");
    }

    #[test]
    fn a_frame_too_large_for_a_lane_is_taken_out_whole() {
        let mut buffer = BytesMut::new();
        request(&mut buffer, 1, b"first");
        let before = buffer.clone();
        let large = vec![9; limits::LANE_FRAME_MAX + 1];
        let Placed::Bulk(frame) = request(&mut buffer, 2, &large) else { panic!("it must not stay on the lane") };
        assert_eq!(buffer, before);
        assert_eq!(frame.len(), LENGTH + REQUEST_HEAD + large.len());
        assert_eq!(request(&mut buffer, 3, &large[1..]), Placed::Lane);
        let too_large = vec![9; limits::FRAME_MAX + 1];
        assert!(matches!(request(&mut buffer, 4, &too_large), Placed::TooLarge(_)));
    }

    #[test]
    fn an_oversized_length_is_refused_before_anything_is_reserved_for_it() {
        let mut splitter = Splitter::new(100);
        splitter.buffer.put_u32_le(u32::MAX);
        splitter.make_room();
        assert!(splitter.buffer.capacity() < 1024 * 1024);
        assert!(matches!(splitter.next(), Err(FrameError::Oversize { max: 100, .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn frames_survive_any_cutting_of_the_stream(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20),
            cuts in prop::collection::vec(1usize..50, 1..10),
        ) {
            let mut stream = BytesMut::new();
            for (id, body) in (0u64..).zip(&bodies) {
                request(&mut stream, id, body);
            }
            let mut splitter = Splitter::new(1000);
            let mut seen = Vec::new();
            let mut cuts = cuts.iter().cycle();
            while !stream.is_empty() {
                let cut = (*cuts.next().unwrap()).min(stream.len());
                splitter.make_room();
                splitter.buffer.put(stream.split_to(cut));
                while let Some(mut frame) = splitter.next().unwrap() {
                    let head = take_request(&mut frame).unwrap();
                    prop_assert_eq!(head, RequestHead { id: seen.len() as u64, deadline_ms: 7 });
                    seen.push(frame.to_vec());
                }
            }
            prop_assert_eq!(seen, bodies);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let mut splitter = Splitter::new(50);
            splitter.buffer.put_slice(&bytes);
            while let Ok(Some(mut frame)) = splitter.next() {
                let mut reply = frame.clone();
                let _ = (take_request(&mut frame).is_ok(), take_reply(&mut reply).is_ok());
            }
        }
    }
}

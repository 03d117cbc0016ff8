//! [`Blob`]: bytes inside messages that are sliced out of the received frame instead of copied.
//!
//! Postcard hands a deserializer borrowed bytes. [`decode`] remembers the frame they come from for the length of the
//! call, so that each `Blob` in the message becomes a reference-counted slice of it.

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

thread_local! {
    /// The frame being decoded on this thread.
    static FRAME: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Bytes in a message.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob(pub Bytes);

/// Decodes a message that fills `frame` to its end; its blobs are slices of the frame.
///
/// # Errors
/// When the frame is not exactly one message of this type.
pub fn decode<T: DeserializeOwned>(frame: &Bytes) -> Result<T, postcard::Error> {
    let (message, rest) = decode_prefix(frame)?;
    if rest.is_empty() { Ok(message) } else { Err(postcard::Error::SerdeDeCustom) }
}

/// Decodes a message at the beginning of `frame` and returns it with the bytes that follow.
///
/// # Errors
/// When the frame does not begin with a message of this type.
pub fn decode_prefix<T: DeserializeOwned>(frame: &Bytes) -> Result<(T, Bytes), postcard::Error> {
    let before = FRAME.replace(Some(frame.clone()));
    let result = postcard::take_from_bytes::<T>(frame);
    FRAME.set(before);
    let (message, rest) = result?;
    Ok((message, frame.slice(frame.len() - rest.len()..)))
}

impl Blob {
    /// Copies bytes into a blob of their own.
    pub fn copy(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl From<Bytes> for Blob {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Deref for Blob {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_bytes(BlobVisitor).map(Self)
    }
}

struct BlobVisitor;

impl<'de> Visitor<'de> for BlobVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_borrowed_bytes<E: Error>(self, bytes: &'de [u8]) -> Result<Bytes, E> {
        Ok(FRAME.with_borrow(|frame| match frame {
            Some(frame) if !bytes.is_empty() && frame.as_ptr_range().contains(&bytes.as_ptr()) => {
                frame.slice_ref(bytes)
            }
            _ => Bytes::copy_from_slice(bytes),
        }))
    }

    fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_slices_of_their_frame() {
        let message = (7u32, Blob::copy(b"payload"), Blob::default());
        let frame = Bytes::from(postcard::to_stdvec(&message).unwrap());
        let decoded: (u32, Blob, Blob) = decode(&frame).unwrap();
        assert_eq!(decoded, message);
        assert!(frame.as_ptr_range().contains(&decoded.1.0.as_ptr()), "the blob was copied");
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut frame = postcard::to_stdvec(&1u32).unwrap();
        frame.push(0);
        assert!(decode::<u32>(&Bytes::from(frame)).is_err());
    }
}

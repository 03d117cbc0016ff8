//! Packing of what nodes send each other in bulk over far paths, where bandwidth is what lacks. On near paths it would
//! cost more processor time than it saves, so nothing is packed there, nor on lanes, nor what clients ask.
//!
//! What is packed is a length (u32, little endian) and an LZ4 block of so many bytes; with a length of 0, the bytes as they are.

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use crate::limits;
use crate::meter::Counter;
use crate::net::frame::FrameError;

/// Of the length that stands first.
pub(crate) const LENGTH: usize = size_of::<u32>();
/// Less is not worth a try.
const LEAST: usize = 1024;
/// How much of it must be saved: an eighth.
const SAVED: usize = 8;

/// What goes on a stream: the length that stands first, if the stream is for what is packed, and the rest. What that saves is
/// counted.
pub(crate) fn pack(body: Bytes, is_packed: bool, saved: &Counter) -> (Option<u32>, Bytes) {
    if !is_packed {
        return (None, body);
    }
    let plain = body.len();
    let (length, rest) = try_pack(body);
    saved.count(plain - rest.len());
    (Some(length), rest)
}

fn try_pack(body: Bytes) -> (u32, Bytes) {
    let length = u32::try_from(body.len()).ok().filter(|_| (LEAST..=limits::PACKED_MAX).contains(&body.len()));
    if let Some(length) = length {
        let packed = lz4_flex::block::compress(&body);
        if packed.len() <= body.len() - body.len() / SAVED {
            return (length, packed.into());
        }
    }
    (0, body)
}

/// Writes the length that stands first, if there is one.
pub(crate) fn put_length(buffer: &mut BytesMut, length: Option<u32>) {
    if let Some(length) = length {
        buffer.put_u32_le(length);
    }
}

/// What came on a stream.
///
/// # Errors
/// When it is no such thing, or more than may be packed.
pub(crate) fn unpack(mut packed: Bytes, is_packed: bool) -> Result<Bytes, FrameError> {
    if !is_packed {
        return Ok(packed);
    }
    let length = packed.try_get_u32_le().map_err(|_| FrameError::Malformed)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length == 0 {
        return Ok(packed);
    }
    if length > limits::PACKED_MAX {
        return Err(FrameError::Oversize { length, max: limits::PACKED_MAX });
    }
    let body = lz4_flex::block::decompress(&packed, length).map_err(|_| FrameError::Malformed)?;
    if body.len() == length { Ok(body.into()) } else { Err(FrameError::Malformed) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packed(body: &[u8]) -> Bytes {
        let (length, rest) = pack(Bytes::copy_from_slice(body), true, &Counter::default());
        let mut buffer = BytesMut::new();
        put_length(&mut buffer, length);
        buffer.put_slice(&rest);
        buffer.freeze()
    }

    #[test]
    fn what_gets_smaller_is_packed_and_the_rest_goes_as_it_is() {
        let text = "2 apples, 1 loaf of bread; ".repeat(400);
        assert!(packed(text.as_bytes()).len() < text.len() / 10);
        let mut noise = vec![0; 4 * LEAST];
        rand::fill(&mut noise[..]);
        for plain in [&noise[..], b"short", b"", &vec![7; limits::PACKED_MAX + 1]] {
            assert_eq!(packed(plain).len(), plain.len() + LENGTH);
        }
    }

    #[test]
    fn a_length_that_nobody_packs_is_refused_before_anything_is_reserved_for_it() {
        let refused = unpack(Bytes::from_static(b"\xff\xff\xff\xff\0"), true);
        assert!(matches!(refused, Err(FrameError::Oversize { max: limits::PACKED_MAX, .. })), "{refused:?}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_packed_comes_back(words in prop::collection::vec("[a-d]{1,4}", 0..2000)) {
            let body = words.concat();
            prop_assert_eq!(unpack(packed(body.as_bytes()), true).unwrap(), body.as_bytes());
        }

        #[test]
        fn garbage_is_refused_or_harmless(length in 0..2_000_u32, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut garbage = BytesMut::new();
            put_length(&mut garbage, Some(length));
            garbage.put_slice(&rest);
            if let Ok(body) = unpack(garbage.freeze(), true) {
                prop_assert!(body.len() == usize::try_from(length).unwrap() || length == 0);
            }
        }
    }
}

//! How tests write down what a message is on the wire.

use serde::Serialize;

/// The encoded message in hexadecimal.
pub(crate) fn hex<T: Serialize>(message: &T) -> String {
    let bytes = postcard::to_stdvec(message).expect("messages always encode into memory");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

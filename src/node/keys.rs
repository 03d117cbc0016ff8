//! The two secrets of a node's QUIC endpoint, kept on disk so that after a quick restart its peers learn at once that
//! their connections are gone, instead of waiting for an idle timeout.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::env::Env;
use crate::net::EndpointKeys;
use crate::store;

const FILE: &str = "endpoint.keys";

/// Why the keys could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {error}; make sure that the node's data directory exists and is writable by its user", path = path.display())]
pub struct KeysError {
    path: PathBuf,
    error: io::Error,
}

/// Reads the keys from the data directory, or makes them there at the first start.
///
/// # Errors
/// [`KeysError`] when the file can be neither read nor made, or does not hold keys.
pub fn load_or_create(data_dir: &Path, env: &Env) -> Result<EndpointKeys, KeysError> {
    let path = data_dir.join(FILE);
    let keys = match fs::read(&path) {
        Ok(bytes) => decode(&bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => create(&path, env),
        Err(error) => Err(error),
    };
    keys.map_err(|error| KeysError { path, error })
}

fn decode(bytes: &[u8]) -> io::Result<EndpointKeys> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "holds no endpoint keys: remove it to have new ones");
    let (reset, connection_id) = bytes.split_at_checked(64).ok_or_else(broken)?;
    Ok(EndpointKeys {
        reset: reset.try_into().map_err(|_| broken())?,
        connection_id: connection_id.try_into().map_err(|_| broken())?,
    })
}

fn create(path: &Path, env: &Env) -> io::Result<EndpointKeys> {
    let keys = EndpointKeys::generate(env);
    store::replace_file(path, &[keys.reset.as_slice(), &keys.connection_id].concat())?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create(dir.path(), &Env::real()).unwrap();
        let second = load_or_create(dir.path(), &Env::real()).unwrap();
        assert_eq!((first.reset, first.connection_id), (second.reset, second.connection_id));
        fs::write(dir.path().join(FILE), b"short").unwrap();
        assert!(load_or_create(dir.path(), &Env::real()).unwrap_err().to_string().contains("remove it"));
    }
}

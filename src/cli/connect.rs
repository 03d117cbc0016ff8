//! What all verbs of a client share: its configuration, its connection, and keys as people write them.

use std::path::PathBuf;

use anyhow::anyhow;
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::GeneralPurpose;
use base64::engine::GeneralPurposeConfig;
use bytes::Bytes;

use crate::cli::Context;
use crate::cli::Usage;
use crate::client::Client;
use crate::client::ClientError;
use crate::client::Hedging;
use crate::config::ClientConfig;
use crate::config::ClientFlags;
use crate::config::HostChecks;
use crate::config::judge_client;
use crate::net::TlsMaterial;
use crate::types::NodeName;

/// Which cluster, as whom, and through which node.
#[derive(Debug, clap::Args)]
pub(crate) struct Connect {
    /// Send everything to this node, whether it owns the key or not.
    #[arg(long, value_name = "ID")]
    node: Option<NodeName>,
    #[command(flatten)]
    flags: ClientFlags,
}

impl Connect {
    /// The one node that is meant, if any is.
    pub(crate) fn node(&self) -> Option<&NodeName> {
        self.node.as_ref()
    }

    /// Connects, does the work, and disconnects.
    pub(crate) fn run<T>(
        self,
        context: &Context,
        work: impl AsyncFnOnce(&Client, &ClientConfig) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let access = self.prepare(context)?;
        context.block_on(None, async {
            let client = access.connect().await?;
            let done = work(&client, &access.config).await;
            client.close().await;
            done
        })
    }

    /// Reads and checks the configuration, for verbs that connect more than once.
    pub(crate) fn prepare(self, context: &Context) -> anyhow::Result<Access> {
        context.log_for_people()?;
        let inputs = self.flags.inputs()?;
        let judged = judge_client(&inputs, HostChecks::All, context.env.wall_ms());
        judged.settled.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let config = judged.into_result()?;
        Ok(Access { tls: TlsMaterial::load(&config.tls)?, config, file: inputs.file, node: self.node })
    }
}

/// All that it takes to connect.
#[derive(Debug)]
pub(crate) struct Access {
    /// The configuration.
    pub(crate) config: ClientConfig,
    /// Its file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// The one node that everything is sent to, if there is one.
    pub(crate) node: Option<NodeName>,
    tls: TlsMaterial,
}

impl Access {
    /// Connects.
    pub(crate) async fn connect(&self) -> anyhow::Result<Client> {
        self.connect_with(Some(Hedging::default())).await
    }

    /// Connects, and hedges so.
    pub(crate) async fn connect_with(&self, hedging: Option<Hedging>) -> anyhow::Result<Client> {
        let mut builder = Client::builder(self.tls.clone())
            .hedging(hedging)
            .cluster(self.config.cluster.clone())
            .namespace(self.config.namespace.clone())
            .timeout(self.config.timeout);
        builder = self.config.zone.iter().fold(builder, |builder, zone| builder.zone(zone.clone()));
        builder = self.config.nodes.iter().fold(builder, |builder, node| builder.node(node.to_string()));
        builder = self.node.iter().fold(builder, |builder, node| builder.pin(node.clone()));
        builder.connect().await.map_err(|error| match error {
            ClientError::Unreachable(_) => {
                anyhow!("{error}: check that nodes run at these addresses, and that UDP gets through to them")
            }
            other => other.into(),
        })
    }
}

/// How keys are written on the command line.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct KeyForm {
    /// Keys are written in base64 (standard alphabet, padding optional).
    #[arg(long, conflicts_with = "key_hex")]
    key_base64: bool,
    /// Keys are written in hexadecimal.
    #[arg(long)]
    key_hex: bool,
}

/// Standard alphabet, with padding or without.
const BASE64_LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl KeyForm {
    /// The key that is meant.
    pub(crate) fn read(self, text: &str) -> Result<Bytes, Usage> {
        let bytes = match self {
            Self { key_base64: true, .. } => from_base64(text),
            Self { key_hex: true, .. } => from_hex(text),
            Self { .. } => Some(text.as_bytes().to_vec()),
        };
        let form = if self.key_hex { "hexadecimal, two digits a byte" } else { "base64" };
        bytes.map(Bytes::from).ok_or_else(|| Usage(format!("the key {text:?} is not {form}")))
    }
}

/// Reads base64, with padding or without.
pub(crate) fn from_base64(text: &str) -> Option<Vec<u8>> {
    BASE64_LENIENT.decode(text).ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

/// Bytes in the standard form of base64.
pub(crate) fn to_base64(bytes: &[u8]) -> String {
    BASE64_LENIENT.encode(bytes)
}

/// Bytes for people, on one line: what is printable as it is, tabs, line ends and the rest escaped as `\t`, `\n`,
/// `\u{7f}`, `\xff`, and the backslash as `\\`.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\'' | '"' => text.push(character),
                other => text.extend(other.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_the_form_that_was_named() {
        let plain = KeyForm::default();
        let base64 = KeyForm { key_base64: true, key_hex: false };
        let hex = KeyForm { key_base64: false, key_hex: true };
        assert_eq!(plain.read("ff").unwrap(), "ff");
        assert_eq!(hex.read("00fF").unwrap(), vec![0, 255]);
        assert_eq!(base64.read("AP8=").unwrap(), vec![0, 255]);
        assert_eq!(base64.read("AP8").unwrap(), vec![0, 255]);
        for bad in ["f", "0g", "é"] {
            assert!(hex.read(bad).is_err(), "{bad:?} was taken");
        }
        assert_eq!(base64.read("?").unwrap_err().to_string(), "the key \"?\" is not base64");
    }

    #[test]
    fn what_is_escaped_stays_on_one_line_and_tells_bytes_apart() {
        assert_eq!(escape("größe \"a\"/'b'".as_bytes()), "größe \"a\"/'b'");
        assert_eq!(escape(b"a\tb\nc\\\xff\x00"), "a\\tb\\nc\\\\\\xff\\0");
        assert_eq!(escape(b"\x1b[31m"), "\\u{1b}[31m");
    }
}

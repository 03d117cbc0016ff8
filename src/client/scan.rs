//! Reading all keys with a prefix.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};

use crate::client::call::unexpected;
use crate::client::{Client, ClientError, Found, resolve};
use crate::limits;
use crate::types::Consistency;
use crate::wire::blob::Blob;
use crate::wire::rpc::{Reply, Request, ScanCursor, ScanRequest};

/// How to scan. The default follows the namespace.
#[derive(Debug, Clone, Default)]
pub struct ScanOptions {
    /// Replicas that must answer for each partition.
    pub r: Option<Consistency>,
    /// Whether values are left out.
    pub keys_only: bool,
    /// Keys fetched at a time; as many as allowed when 0.
    pub page: u32,
    /// Time for one page with all its retries.
    pub timeout: Option<Duration>,
}

/// A scan under way, by [`Scan::next`] or as a [stream](Scan::into_stream). It goes on whatever becomes of the nodes it has
/// asked, and of the ring: its place is a part of the hash space and a key, which no change of owners moves. Keys come in the order of partitions, which is the same in every scan, and sorted within each. A key
/// that exists during the whole scan comes exactly once; one that is written meanwhile comes once or not at all.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    prefix: Bytes,
    options: ScanOptions,
    cursor: Option<ScanCursor>,
    started: bool,
    ready: VecDeque<(Bytes, Found)>,
}

impl Scan {
    pub(crate) fn new(client: Client, prefix: Bytes, options: ScanOptions) -> Self {
        Self { client, prefix, options, cursor: None, started: false, ready: VecDeque::new() }
    }

    /// Keys that [`Scan::next`] returns without asking a node.
    pub fn buffered(&self) -> usize {
        self.ready.len()
    }

    /// The next key with what was found under it; `None` at the end. After an error it may be called again, and goes on
    /// where it was. Cancel-safe: nothing is lost when it is dropped.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn next(&mut self) -> Result<Option<(Bytes, Found)>, ClientError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            if self.started && self.cursor.is_none() {
                return Ok(None);
            }
            self.fetch().await?;
        }
    }

    /// The same as a stream. It ends after the last key; after an error it may be polled again, and goes on where it was.
    pub fn into_stream(self) -> impl Stream<Item = Result<(Bytes, Found), ClientError>> + Send {
        stream::unfold(self, |mut scan| async move {
            let item = scan.next().await.transpose()?;
            Some((item, scan))
        })
    }

    async fn fetch(&mut self) -> Result<(), ClientError> {
        let page = u32::try_from(limits::SCAN_PAGE_MAX).unwrap_or(u32::MAX);
        let request = ScanRequest {
            namespace: self.client.namespace.clone(),
            prefix: Blob(self.prefix.clone()),
            cursor: self.cursor.clone(),
            limit: if self.options.page == 0 { page } else { self.options.page.min(page) },
            r: self.options.r,
            keys_only: self.options.keys_only,
        };
        let call = self.client.call(self.client.deadline(self.options.timeout));
        let reply = call.send(self.client.anyone(), Request::Scan(request)).await?;
        let Reply::Scan(done) = reply else { return Err(unexpected()) };
        self.started = true;
        self.cursor = done.next;
        for (key, found) in done.items {
            let found = resolve::apply(self.client.resolver.as_deref(), &key, found.into());
            self.ready.push_back((key.0, found));
        }
        Ok(())
    }
}

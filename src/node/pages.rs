//! Reading the records of one partition: its bucket of the storage is read, and what belongs to other partitions in it is
//! passed over.
//!
//! Before partitions are cut for the first time a bucket is a partition. Afterwards, reading a part costs at most what
//! reading the whole did.

use crate::limits;
use crate::node::core::Core;
use crate::record;
use crate::store::{ScanPage, StoreError};
use crate::types::{Bucket, PartitionId};

impl Core {
    /// Reads records of a partition as [`Engine::scan`](crate::store::Engine::scan) does of a bucket: up to so many, and up
    /// to about so many bytes. A page with more behind it is never empty.
    pub(crate) async fn scan(
        &self,
        partition: PartitionId,
        prefix: &[u8],
        after: Option<&[u8]>,
        (most, bytes): (usize, usize),
    ) -> Result<ScanPage, StoreError> {
        let Some(around) = self.buckets.around(partition) else {
            return Err(StoreError::Misuse(format!("partition {partition} is more than one bucket")));
        };
        let bucket = Bucket(around.number());
        if around == partition {
            return self.engine.scan(bucket, prefix, after, most, bytes).await;
        }
        // Whoever wants only a few would have the storage asked again and again.
        let (limit, bytes) = (most.max(limits::TREE_PAGE_MAX), bytes.max(limits::TREE_PAGE_BYTES));
        let (mut after, mut damaged) = (after.map(<[u8]>::to_vec), 0);
        loop {
            let mut page = self.engine.scan(bucket, prefix, after.as_deref(), limit, bytes).await?;
            let Some(last) = page.items.last().map(|(key, _)| key.to_vec()) else { return Ok(page) };
            damaged += page.damaged;
            page.damaged = damaged;
            page.items.retain(|(key, _)| record::position(&self.hash, key).is_some_and(|at| partition.holds(at)));
            if page.items.len() > most {
                page.items.truncate(most);
                page.more = true;
            }
            if !page.items.is_empty() || !page.more {
                return Ok(page);
            }
            after = Some(last);
        }
    }
}

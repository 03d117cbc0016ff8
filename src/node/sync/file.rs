//! The trees of a node that was shut down in order, kept beside its storage so that it need not be read again.
//!
//! The file is removed as soon as it was read, before anything is written to the storage, so a crash never leaves one
//! behind that is older than the storage. It counts only in the epoch in which it was made, and only if its checksum
//! holds and its trees add up. Without it everything is read anew.

use std::fs::File;
use std::io;
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::hash::ClusterHash;
use crate::limits;
use crate::merkle::{Shape, Tree};
use crate::node::trees::Trees;
use crate::store;
use crate::types::{Copies, Epoch, Namespace, PartitionId};

const MAGIC: &[u8; 8] = b"DMTREE02";
const DOMAIN: &[u8] = b"hash trees";

#[derive(Serialize, Deserialize)]
struct Kept {
    epoch: Epoch,
    copies: Vec<(Namespace, Copies)>,
    partitions: Vec<(PartitionId, Vec<KeptTree>)>,
}

#[derive(Serialize, Deserialize)]
struct KeptTree {
    copies: Copies,
    records: u64,
    root: u128,
    leaves: Vec<u128>,
}

/// Writes the trees that are known; they are on disk when this returns.
pub(crate) fn save(path: &Path, hash: &ClusterHash, trees: &Trees) -> io::Result<()> {
    let copies = trees.copies();
    let kept = |(copies, tree): (&Copies, &Tree)| KeptTree {
        copies: *copies,
        records: tree.records(),
        root: tree.root(),
        leaves: tree.leaves().to_vec(),
    };
    let kept = trees.with(|forest| Kept {
        epoch: forest.epoch(),
        copies,
        partitions: forest.known().map(|(partition, trees)| (partition, trees.iter().map(kept).collect())).collect(),
    });
    let body = postcard::to_stdvec(&kept).map_err(io::Error::other)?;
    let checksum = hash.checksum(DOMAIN, &body).to_le_bytes();
    store::replace_file(path, &[MAGIC.as_slice(), &checksum, &body].concat())
}

/// Reads what was kept, if anything, and removes it. Returns the number of partitions that are known now.
///
/// # Errors
/// When the file can be neither emptied nor removed: a later start would believe it, however old it is by then.
pub(crate) fn load(path: &Path, hash: &ClusterHash, trees: &Trees) -> io::Result<usize> {
    let read = read(path);
    invalidate(path)?;
    let bytes = match read {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(0),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the kept hash trees cannot be read; the storage is read anew");
            return Ok(0);
        }
    };
    let Some(kept) = decode(&bytes, hash) else {
        tracing::warn!(path = %path.display(), "the kept hash trees are damaged; the storage is read anew");
        return Ok(0);
    };
    if kept.copies != trees.copies() {
        return Ok(0);
    }
    trees.with(|forest| {
        let mut known = 0;
        for (partition, trees) in kept.partitions {
            let whole = trees.into_iter().map(|tree| restore(forest.shape(), tree)).collect::<Option<_>>();
            if let (true, Some(trees)) = (kept.epoch == forest.epoch(), whole) {
                forest.restore(partition, trees);
                known += 1;
            }
        }
        Ok(known)
    })
}

fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => file.take(limits::TREE_FILE_MAX).read_to_end(&mut bytes).map(|_| Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sees to it that nobody believes the file any more, also after a power cut: it is emptied, and then removed. One of the
/// two is enough.
fn invalidate(path: &Path) -> io::Result<()> {
    let emptied = match File::options().write(true).truncate(true).open(path) {
        Ok(file) => file.sync_all(),
        Err(error) => Err(error),
    };
    match store::remove_file(path) {
        Err(error) if emptied.is_ok() => {
            tracing::warn!(path = %path.display(), %error, "the kept hash trees could be emptied only, not removed");
            Ok(())
        }
        removed => removed,
    }
}

fn restore(shape: Shape, kept: KeptTree) -> Option<(Copies, Tree)> {
    Some((kept.copies, Tree::from_leaves(shape, kept.leaves, kept.root, kept.records)?))
}

fn decode(bytes: &[u8], hash: &ClusterHash) -> Option<Kept> {
    let (checksum, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    if hash.checksum(DOMAIN, body) != u64::from_le_bytes(*checksum) {
        return None;
    }
    postcard::from_bytes(body).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use bytes::Bytes;

    use super::*;
    use crate::layout::Layout;
    use crate::merkle::{Item, Page};
    use crate::types::{NamespacePolicy, Partitions};
    use crate::view::ClusterView;
    use crate::wire::rpc::{ClusterInfo, MemberInfo};
    use crate::wire::sync::TreeId;

    const PARTITION: PartitionId = PartitionId(16 + 3);

    fn view(copies: u8) -> ClusterView {
        let member = |name: &str| MemberInfo {
            name: name.parse().unwrap(),
            quic: "h:1".to_owned(),
            zone: "z".parse().unwrap(),
            weight: 100,
        };
        let policy = NamespacePolicy { n: copies, ..NamespacePolicy::default() };
        ClusterView::new(
            ClusterInfo {
                cluster: "demo".parse().unwrap(),
                partitions: Partitions::new(16).unwrap(),
                members: ["a", "b", "c"].map(member).to_vec(),
                namespaces: vec![(Namespace::default(), policy)],
                node: "a".parse().unwrap(),
                layout: Layout::default(),
            }
            .founding(),
        )
        .unwrap()
    }

    /// Trees that know one partition with one record.
    fn grown(view: &ClusterView) -> Trees {
        let trees = Trees::new(view, Epoch(7));
        trees.with(|forest| {
            forest.begin_check(PARTITION);
            let window = forest.next_page().unwrap();
            let item = Item { key: Bytes::from_static(b"default\0k"), copies: Copies::settled(3), digest: Some(9) };
            assert_eq!(forest.take_page(&window, vec![item], false), Page::Built);
        });
        trees
    }

    #[test]
    fn trees_that_cannot_be_removed_are_emptied_or_no_node_starts_on_them() {
        let dir = tempfile::tempdir().unwrap();
        let (path, view) = (dir.path().join("trees"), view(3));
        // A directory with something in it can be neither emptied nor removed like a file.
        fs::create_dir_all(path.join("stuck")).unwrap();
        load(&path, view.hash(), &Trees::new(&view, Epoch(7))).unwrap_err();
        assert!(path.exists());
    }

    #[test]
    fn kept_trees_count_once_in_their_epoch_and_only_undamaged() {
        let dir = tempfile::tempdir().unwrap();
        let (path, view, other) = (dir.path().join("trees"), view(3), view(2));
        let (hash, grown) = (*view.hash(), grown(&view));
        let tree = TreeId { partition: PARTITION, copies: Copies::settled(3) };
        save(&path, &hash, &grown).unwrap();
        let whole = fs::read(&path).unwrap();
        let trees = Trees::new(&view, Epoch(7));
        assert_eq!(load(&path, &hash, &trees).unwrap(), 1);
        assert_eq!(trees.root(tree), grown.root(tree));
        let unknown = TreeId { partition: PartitionId(16 + 4), copies: Copies::settled(3) };
        assert!(trees.root(unknown).is_none(), "that one was not known");
        assert!(!path.exists());
        assert_eq!(load(&path, &hash, &Trees::new(&view, Epoch(7))).unwrap(), 0);

        let try_with = |bytes: &[u8], epoch, view: &ClusterView| {
            fs::write(&path, bytes).unwrap();
            load(&path, &hash, &Trees::new(view, epoch)).unwrap()
        };
        assert_eq!(try_with(&whole, Epoch(8), &view), 0, "trees of another epoch were believed");
        assert_eq!(try_with(&whole, Epoch(7), &other), 0, "trees of other copies were believed");
        assert_eq!(try_with(&whole, Epoch(7), &view), 1);
        for at in (0..whole.len()).step_by(7) {
            let mut bent = whole.clone();
            bent[at] ^= 1;
            assert_eq!(try_with(&bent, Epoch(7), &view), 0, "byte {at}");
            assert_eq!(try_with(&whole[..at], Epoch(7), &view), 0, "cut at {at}");
        }
    }
}

//! The layout and this node's votes on disk.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::env::Env;
use crate::layout::{Layout, Vote};
use crate::node::kept::KeptFile;
use crate::types::Epoch;
use crate::wire::rpc::ServeError;

/// What is kept of the layout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct KeptLayout {
    /// The latest layout that is known.
    pub(super) layout: Layout,
    /// Whether this node has had a role in some layout.
    pub(super) was_member: bool,
    /// The version for which all that this node is to own is here.
    pub(super) copied: u64,
    /// The life of the storage that it is in.
    pub(super) copied_in: Option<Epoch>,
}

/// The right to write. It goes along with each write to its end, also when nobody waits for that any more: an earlier vote
/// that reached the disk after a later one would take back what was told.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

/// The two files; none where nothing is kept. Of the layout the one before is kept, too: an earlier layout is learnt again. An
/// earlier vote would be a lie, so of votes there is only the last.
#[derive(Debug)]
pub(super) struct Files(Option<(KeptFile, KeptFile)>);

impl Files {
    pub(super) fn open(data_dir: Option<&Path>) -> io::Result<(Self, Option<KeptLayout>, Option<Vote>)> {
        let Some(dir) = data_dir else { return Ok((Self(None), None, None)) };
        let layouts = KeptFile::new(dir, "layout", b"DMLAYOU2");
        // Founded anew, the node would own what it owned before all changes.
        layouts.check_version()?;
        let votes = KeptFile::secret(dir, "vote", b"DMVOTE02");
        let layout = layouts.load()?.and_then(|body| decoded(&layouts, &body));
        let vote = votes.load()?.and_then(|body| decoded(&votes, &body));
        Ok((Self(Some((layouts, votes))), layout, vote))
    }

    pub(super) async fn keep(&self, layout: KeptLayout, turn: Turn, env: &Env) -> Result<Turn, ServeError> {
        match &self.0 {
            Some((file, _)) => save(file, &layout, turn, env).await,
            None => Ok(turn),
        }
    }

    pub(super) async fn keep_vote(&self, vote: Vote, turn: Turn, env: &Env) -> Result<Turn, ServeError> {
        match &self.0 {
            Some((_, file)) => save(file, &vote, turn, env).await,
            None => Ok(turn),
        }
    }
}

fn decoded<T: for<'a> Deserialize<'a>>(file: &KeptFile, body: &[u8]) -> Option<T> {
    let value = postcard::from_bytes(body);
    if let Err(error) = &value {
        tracing::warn!(file = %file.path().display(), %error, "cannot be understood: learnt again from the others");
    }
    value.ok()
}

pub(super) async fn save<T: Serialize>(file: &KeptFile, value: &T, turn: Turn, env: &Env) -> Result<Turn, ServeError> {
    let body = postcard::to_stdvec(value).expect("layouts always encode into memory");
    let (writer, path) = (file.clone(), file.path().to_owned());
    match env.blocking(move || (writer.save(&body), turn)).await {
        Some((Ok(()), turn)) => Ok(turn),
        Some((Err(error), _)) => Err(ServeError::Unavailable(format!("cannot write {}: {error}", path.display()))),
        None => Err(ServeError::Unavailable("the node is ending".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn a_layout_of_another_version_of_the_program_is_refused_and_left_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("layout");
        std::fs::write(&path, b"DMLAYOU1 and so on").unwrap();
        let refused = Files::open(Some(dir.path())).unwrap_err();
        assert!(refused.to_string().contains("another version"), "{refused}");
        assert!(path.exists());
        std::fs::write(&path, b"junk").unwrap();
        Files::open(Some(dir.path())).unwrap();
    }

    #[tokio::test]
    async fn whoever_writes_next_waits_for_a_write_that_nobody_waits_for_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let (files, ..) = Files::open(Some(dir.path())).unwrap();
        let (writing, env) = (Arc::new(tokio::sync::Mutex::default()), Env::real());
        let turn = writing.clone().lock_owned().await;
        assert!(files.keep_vote(Vote::default(), turn, &env).now_or_never().is_none(), "begun, and given up");
        let _turn = writing.lock_owned().await;
        let (_, _, kept) = Files::open(Some(dir.path())).unwrap();
        assert_eq!(kept, Some(Vote::default()), "it had ended before the next began");
    }
}

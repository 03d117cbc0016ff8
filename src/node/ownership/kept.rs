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

/// The two files; none where nothing is kept. Of the layout the one before is kept, too: an earlier layout is learnt again. An
/// earlier vote would be a lie, so of votes there is only the last.
#[derive(Debug)]
pub(super) struct Files(Option<(KeptFile, KeptFile)>);

impl Files {
    pub(super) fn open(data_dir: Option<&Path>) -> io::Result<(Self, Option<KeptLayout>, Option<Vote>)> {
        let Some(dir) = data_dir else { return Ok((Self(None), None, None)) };
        let layouts = KeptFile::new(dir, "layout", b"DMLAYOU1");
        let votes = KeptFile::secret(dir, "vote", b"DMVOTE01");
        let layout = layouts.load()?.and_then(|body| decoded(&layouts, &body));
        let vote = votes.load()?.and_then(|body| decoded(&votes, &body));
        Ok((Self(Some((layouts, votes))), layout, vote))
    }

    pub(super) async fn keep(&self, layout: KeptLayout, env: &Env) -> Result<(), ServeError> {
        match &self.0 {
            Some((file, _)) => save(file, &layout, env).await,
            None => Ok(()),
        }
    }

    pub(super) async fn keep_vote(&self, vote: Vote, env: &Env) -> Result<(), ServeError> {
        match &self.0 {
            Some((_, file)) => save(file, &vote, env).await,
            None => Ok(()),
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

pub(super) async fn save<T: Serialize>(file: &KeptFile, value: &T, env: &Env) -> Result<(), ServeError> {
    let body = postcard::to_stdvec(value).expect("layouts always encode into memory");
    let (writer, path) = (file.clone(), file.path().to_owned());
    match env.blocking(move || writer.save(&body)).await {
        Some(Ok(())) => Ok(()),
        Some(Err(error)) => Err(ServeError::Unavailable(format!("cannot write {}: {error}", path.display()))),
        None => Err(ServeError::Unavailable("the node is ending".to_owned())),
    }
}

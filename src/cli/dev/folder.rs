//! The folder of a dev cluster: whose it is, that nobody else uses it, and what its cluster was made with.

use std::fs;
use std::fs::File;
use std::io::ErrorKind;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context as _;
use anyhow::anyhow;
use anyhow::bail;
use serde::Deserialize;
use serde::Serialize;

use crate::cli::dev::Storage;
use crate::cli::dev::Wanted;
use crate::cli::lock::Lock;
use crate::cli::lock::Locked;

/// The file that makes a folder one of ours.
const SPEC: &str = "dev.json";
/// The file whose lock a running `dev` holds.
pub(super) const LOCK: &str = "dev.lock";
/// What [`SPEC`] is called while it is written.
const SPEC_DRAFT: &str = "dev.draft";
/// The version of what [`SPEC`] holds.
const FORMAT: u32 = 1;

/// What a cluster was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spec {
    format: u32,
    /// The founding members.
    pub(super) nodes: u16,
    pub(super) storage: Storage,
    pub(super) zones: u16,
    /// The first port of the start before; 0 before the first.
    pub(super) base_port: u16,
    /// Settings of all nodes, as `KEY=VALUE`.
    pub(super) settings: Vec<String>,
    /// Nodes that were added while it ran.
    #[serde(default)]
    pub(super) added: Vec<Added>,
}

/// A node that was added while the cluster ran.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Added {
    /// Its zone, if not the next in turn.
    pub(super) zone: Option<String>,
    /// Its weight, if not the usual one.
    pub(super) weight: Option<u32>,
    /// Whether it waits for `dynamomini cluster join` or `replace`.
    pub(super) approve: bool,
}

impl Spec {
    /// All nodes, those that were added among them.
    pub(super) fn total(&self) -> u16 {
        self.nodes.saturating_add(u16::try_from(self.added.len()).unwrap_or(u16::MAX))
    }

    /// The node with this number, if it was added.
    pub(super) fn added(&self, index: u16) -> Option<&Added> {
        self.added.get(usize::from(index.checked_sub(self.nodes)?))
    }
}

/// A folder that this process alone uses.
#[derive(Debug)]
pub(super) struct Folder {
    /// Its absolute path.
    pub(super) root: PathBuf,
    /// The cluster in it, if there is one.
    found: Option<Spec>,
    /// Unlocked by the system when this process ends, however it does.
    _lock: Lock,
}

impl Folder {
    /// Opens the folder, making it when it is not there, and locks it.
    ///
    /// # Errors
    /// When it holds something else, or another `dev` uses it.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        let shown = dir.display();
        fs::create_dir_all(dir)
            .with_context(|| format!("the folder {shown} cannot be made: name another with --dir"))?;
        let root = fs::canonicalize(dir).with_context(|| shown.to_string())?;
        refuse_strangers(&root)?;
        let lock = lock(&root)?;
        let found = read(&root)?;
        Ok(Self { root, found, _lock: lock })
    }

    /// Whether it held a cluster already.
    pub(super) fn is_restart(&self) -> bool {
        self.found.is_some()
    }

    /// What the cluster is to be: what was asked for where the folder leaves it open, else what the folder says.
    ///
    /// # Errors
    /// When the folder's cluster is another one than was asked for.
    pub(super) fn settle(&self, wanted: &Wanted) -> anyhow::Result<Spec> {
        let spec = match &self.found {
            None => Spec {
                format: FORMAT,
                nodes: wanted.nodes.unwrap_or(3),
                storage: wanted.storage.unwrap_or(Storage::Embedded),
                zones: wanted.zones.unwrap_or(1),
                base_port: 0,
                settings: wanted.settings.clone().unwrap_or_default(),
                added: Vec::new(),
            },
            Some(found) => {
                self.same("nodes", wanted.nodes, found.nodes)?;
                self.same("storage", wanted.storage.map(Storage::name), found.storage.name())?;
                self.same("zones", wanted.zones, found.zones)?;
                let settings = wanted.settings.clone().unwrap_or_else(|| found.settings.clone());
                Spec { settings, ..found.clone() }
            }
        };
        if spec.zones > spec.nodes {
            bail!("{} zones are more than {} nodes: give --zones no more than --nodes", spec.zones, spec.nodes);
        }
        Ok(spec)
    }

    fn same<T: PartialEq + std::fmt::Display>(&self, what: &str, wanted: Option<T>, found: T) -> anyhow::Result<()> {
        match wanted {
            Some(wanted) if wanted != found => Err(anyhow!(
                "{} holds a cluster with --{what} {found}, not {wanted}: leave --{what} out to start that one, name \
                 another folder with --dir, or remove this one to lose its data",
                self.root.display()
            )),
            _ => Ok(()),
        }
    }

    /// Writes down what the cluster is made with.
    pub(super) fn remember(&self, spec: &Spec) -> anyhow::Result<()> {
        write_whole(&self.root.join(SPEC), &serde_json::to_string_pretty(spec)?)
    }
}

/// Refuses a folder with files that are not ours, before anything is written into it.
fn refuse_strangers(root: &Path) -> anyhow::Result<()> {
    if root.join(SPEC).exists() {
        return Ok(());
    }
    for entry in fs::read_dir(root).with_context(|| root.display().to_string())? {
        let name = entry?.file_name();
        // A start that got no further has left nothing but these.
        if name != LOCK && name != SPEC_DRAFT {
            bail!(
                "{} holds something else than a dev cluster ({}): name a new or empty folder with --dir",
                root.display(),
                name.display()
            );
        }
    }
    Ok(())
}

fn lock(root: &Path) -> anyhow::Result<Lock> {
    let shown = root.display();
    Lock::take(&root.join(LOCK)).map_err(|locked| match locked {
        Locked::By(pid) => {
            anyhow!("another `dynamomini dev` runs in {shown} (pid {pid}): stop it, or name another folder")
        }
        Locked::Unusable(error) => anyhow!("{shown} cannot be locked: {error}"),
    })
}

fn read(root: &Path) -> anyhow::Result<Option<Spec>> {
    let path = root.join(SPEC);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| path.display().to_string()),
    };
    let spec: Result<Spec, _> = serde_json::from_str(&text);
    match spec {
        Ok(spec) if spec.format == FORMAT => Ok(Some(spec)),
        Ok(spec) => bail!("{} has format {}, not {FORMAT}: name another folder", path.display(), spec.format),
        Err(error) => bail!("{} is damaged ({error}): name another folder, or remove this one", path.display()),
    }
}

/// Replaces a file as a whole: a reader sees the old one or the new one.
pub(super) fn write_whole(path: &Path, text: &str) -> anyhow::Result<()> {
    let shown = || path.display().to_string();
    let draft = path.with_extension("draft");
    let mut file = File::create(&draft).with_context(shown)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(shown)?;
    fs::rename(&draft, path).with_context(shown)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error).with_context(|| path.display().to_string()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_other_files_is_refused_and_left_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains("thesis.txt") && error.contains("--dir"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_one_uses_a_folder_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Folder::open(dir.path()).unwrap();
        let error = Folder::open(dir.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Folder::open(dir.path()).unwrap();
    }

    #[test]
    fn a_cluster_is_started_again_as_it_was_and_never_as_another() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let settings = Some(vec!["net.lanes=2".to_owned()]);
        let wanted = Wanted { nodes: Some(5), storage: Some(Storage::Redis), settings, ..Wanted::default() };
        let spec = folder.settle(&wanted).unwrap();
        folder.remember(&spec).unwrap();
        drop(folder);
        let folder = Folder::open(dir.path()).unwrap();
        assert!(folder.is_restart());
        assert_eq!(folder.settle(&Wanted::default()).unwrap(), spec);
        for other in [
            Wanted { nodes: Some(3), ..Wanted::default() },
            Wanted { storage: Some(Storage::Memory), ..Wanted::default() },
            Wanted { zones: Some(2), ..Wanted::default() },
        ] {
            assert!(folder.settle(&other).unwrap_err().to_string().contains("remove this one"));
        }
        let changed = Wanted { settings: Some(Vec::new()), ..Wanted::default() };
        assert_eq!(folder.settle(&changed).unwrap().settings, Vec::<String>::new());
    }

    #[test]
    fn there_are_no_more_zones_than_nodes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        let wanted = Wanted { nodes: Some(2), zones: Some(3), ..Wanted::default() };
        assert!(folder.settle(&wanted).unwrap_err().to_string().contains("--zones"));
    }
}

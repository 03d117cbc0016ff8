//! A simulated disk: it loses what was not synced when the power goes, tears what was under way, fills up, and fails.

use std::io;
use std::sync::Mutex;

use rand::RngExt;
use rand::SeedableRng;
use rand::rngs::StdRng;
use redb::StorageBackend;

const SECTOR: usize = 512;

/// The disk; it outlives the engines that are opened on it.
#[derive(Debug)]
pub(super) struct SimDisk(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: StdRng,
    /// What programs see.
    now: Vec<u8>,
    /// What a power cut leaves.
    synced: Vec<u8>,
    /// Writes and syncs until the power goes.
    power: Option<u64>,
    /// Length above which the disk is full.
    room: usize,
    /// Whether syncing does nothing, as with a disk that lies.
    lies: bool,
    /// Reads that fail from now on.
    bad_reads: u64,
}

impl SimDisk {
    pub(super) fn new(seed: u64) -> Self {
        Self(Mutex::new(State {
            rng: StdRng::seed_from_u64(seed),
            now: Vec::new(),
            synced: Vec::new(),
            power: None,
            room: usize::MAX,
            lies: false,
            bad_reads: 0,
        }))
    }

    /// The power goes after this many writes and syncs; nothing works then until [`SimDisk::power_on`].
    pub(super) fn cut_power_after(&self, steps: u64) {
        self.0.lock().unwrap().power = Some(steps);
    }

    /// Power is back: of each sector that was not synced, the old or the new content is there.
    pub(super) fn power_on(&self) {
        let mut state = self.0.lock().unwrap();
        let kept = [0.0, 0.5, 1.0][state.rng.random_range(0..3)];
        let length = if state.rng.random_bool(kept) { state.now.len() } else { state.synced.len() };
        let mut image = state.synced.clone();
        image.resize(length, 0);
        for at in (0..length.min(state.now.len())).step_by(SECTOR) {
            let end = (at + SECTOR).min(length).min(state.now.len());
            if image[at..end] != state.now[at..end] && state.rng.random_bool(kept) {
                let sector = state.now[at..end].to_vec();
                image[at..end].copy_from_slice(&sector);
            }
        }
        state.now.clone_from(&image);
        state.synced = image;
        state.power = None;
    }

    /// From now on syncing does nothing.
    pub(super) fn lie(&self) {
        self.0.lock().unwrap().lies = true;
    }

    /// No room beyond what is used, plus so many bytes.
    pub(super) fn limit_room(&self, more: usize) {
        let mut state = self.0.lock().unwrap();
        state.room = state.now.len().saturating_add(more);
    }

    /// The next reads fail.
    pub(super) fn fail_reads(&self, count: u64) {
        self.0.lock().unwrap().bad_reads = count;
    }

    /// Everything on it, for making and restoring copies.
    pub(super) fn image(&self) -> Vec<u8> {
        self.0.lock().unwrap().now.clone()
    }

    /// Puts another image in place.
    pub(super) fn restore(&self, image: Vec<u8>) {
        let mut state = self.0.lock().unwrap();
        state.now.clone_from(&image);
        state.synced = image;
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.power {
            Some(0) => return Err(io::Error::other("no power")),
            Some(left) => *left -= 1,
            None => {}
        }
        Ok(())
    }

    fn powered(&self) -> io::Result<()> {
        if self.power == Some(0) { Err(io::Error::other("no power")) } else { Ok(()) }
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        let state = self.0.lock().unwrap();
        state.powered()?;
        Ok(state.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.powered()?;
        if state.bad_reads > 0 {
            state.bad_reads -= 1;
            return Err(io::Error::other("bad sector"));
        }
        let at = usize::try_from(offset).unwrap();
        let from = state.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(from);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        let len = usize::try_from(len).unwrap();
        if len > state.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.now.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.step()?;
        if !state.lies {
            let now = state.now.clone();
            state.synced = now;
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let at = usize::try_from(offset).unwrap();
        if state.power == Some(1) {
            // The write during which the power goes gets through in part, in whole sectors.
            let sectors = state.rng.random_range(0..=data.len() / SECTOR);
            let part = &data[..sectors * SECTOR];
            state.now[at..at + part.len()].copy_from_slice(part);
        }
        state.step()?;
        state.powered()?;
        state.now[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

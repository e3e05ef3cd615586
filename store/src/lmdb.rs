//! The index in LMDB: rows only, default synchronous mode, one transaction per checkpoint.
//!
//! Never `NOSYNC`, `NOMETASYNC` or `WRITEMAP`: with them a power cut corrupts what the log could
//! not even be told to replay, and LMDB then kills the process instead of failing. Any error of a
//! checkpoint but a full map ends the process: after a failed sync LMDB itself would go on as if
//! nothing had happened.
//!
//! **Map size.** The map is sparse address space, no memory and no disk: [`map_bytes_for`] takes
//! twice the free disk, shared among the shards, within fixed bounds, so that a full map is a rare
//! event (the disk has grown since the start). Then the checkpoint's transaction is dropped, the
//! map is doubled, and the checkpoint runs again. LMDB allows that only while no transaction is
//! open in the process, so every page holds the lock `growth` shared and growth takes it alone:
//! uncontended but for that moment, when a reader waits for the remapping and for pages already in
//! flight, which are bounded in rows.
//!
//! A new index is made in a temporary directory and renamed, because a torn first write of LMDB's
//! two meta pages would leave a file that cannot be opened.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "one of the two modules of this crate that touch the kernel"
)]
#![allow(
    unsafe_code,
    reason = "opening and resizing a memory map; each block says why it is sound"
)]

use crate::delta::Generation;
use crate::effect::{
    Answer, Found, IndexPage, IndexRow, LookupKey, Question, ScanRequest, Seq, WorldError,
};
use crate::file::{is_no_space, reserve_file, sync_directory, sync_file};
use crate::index::filter::{FILTER_BYTES_MAX, IdFilters};
use crate::index::generations::{Generations, IndexGeneration};
use crate::index::segments::{self, Remap, SegmentRow};
use crate::index::{self, Did, ReadRows, Rows, Table, UpkeepDone, UpkeepRequest, WriteRows};
use crate::key::EventKeys;
use crate::seam::{Bodies, Index, Sketched};
use crate::sketch::SketchedCount;
use crate::sums::Resummed;
use crate::vanish::Purge;
use heed::types::Bytes;
use heed::{CompactionOption, Env, EnvOpenOptions, MdbError, PutFlags, RoTxn, RwTxn, WithoutTls};
use proto::{EventId, Filter, Secret};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// Version of the index format; another one is rebuilt from the log by hand, never guessed at.
pub const INDEX_VERSION: u32 = 3;
/// Least size of the map.
pub const MAP_BYTES_MIN: usize = 1 << 30;
/// Greatest size of the map at the start.
pub const MAP_BYTES_MAX: usize = 1 << 40;
/// Size beyond which a full map is an error: half of what a process can address.
const MAP_BYTES_LAST: usize = 1 << 46;
/// Reading transactions at a time, of all threads.
const READERS_MAX: u32 = 256;
/// The map is sized in pages of at most this many bytes.
const PAGE_BYTES: usize = 64 << 10;
/// Room made for each record that a transaction changes: measured, a checkpoint of 65,536 events
/// into an index of a million writes 1.5 KiB an event, one of 8,192 into four million 9.5 KiB.
const PAGE_ROOM_BYTES: u64 = 10 << 10;
/// Room made whatever a transaction changes: its list of free pages, and splits.
const ROOM_BYTES_MIN: u64 = 1 << 20;

/// Key of the format version in table `meta`.
const META_VERSION: &[u8] = b"version";

/// The file that holds the rows.
const DATA_FILE: &str = "data.mdb";

type TableRows = heed::Database<Bytes, Bytes>;

/// Size of the map for one of `shards` indexes on the disk that holds `directory`.
pub fn map_bytes_for(directory: &Path, shards: u16) -> usize {
    let free = rustix::fs::statvfs(directory)
        .map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let share = free.saturating_mul(2) / u64::from(shards.max(1));
    let bytes = usize::try_from(share).unwrap_or(usize::MAX).clamp(MAP_BYTES_MIN, MAP_BYTES_MAX);
    bytes / PAGE_BYTES * PAGE_BYTES
}

/// The index of one shard. Any thread may read while one other applies a checkpoint.
#[derive(Debug)]
pub struct LmdbIndex {
    env: Env<WithoutTls>,
    tables: [TableRows; Table::ALL.len()],
    secret: Secret,
    /// Shared by every transaction, held alone while the map is replaced.
    growth: RwLock<()>,
    /// Replaced as a whole when a generation has been sealed.
    filters: RwLock<Arc<IdFilters>>,
    filter_bytes_max: usize,
}

fn failed(error: &heed::Error) -> WorldError {
    WorldError::Index(error.to_string())
}

fn io_failed(path: &Path, error: &std::io::Error) -> WorldError {
    WorldError::Index(format!("{}: {error}", path.display()))
}

fn is_map_full(error: &heed::Error) -> bool {
    matches!(error, heed::Error::Mdb(MdbError::MapFull))
}

fn open_env(path: &Path, map_bytes: usize) -> Result<Env<WithoutTls>, WorldError> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.map_size(map_bytes).max_dbs(Table::ALL.len() as u32).max_readers(READERS_MAX);
    // SAFETY: the map is undefined if somebody else changes the file. The data directory is locked
    // by this process (`file::directory`), the file is on a local file system, and nothing but
    // LMDB writes to it; both LMDB's lock file and its synchronous mode are left at their defaults.
    unsafe { options.open(path) }.map_err(|error| failed(&error))
}

impl LmdbIndex {
    /// Opens the index in directory `path`, or makes an empty one there.
    ///
    /// # Errors
    /// [`WorldError::Index`] when it cannot be opened, or was written by a newer program.
    pub fn open(path: &Path, secret: Secret, map_bytes: usize) -> Result<Self, WorldError> {
        Self::open_bounded(path, secret, map_bytes, FILTER_BYTES_MAX)
    }

    /// The same, with a bound on what its filters over ids may take in memory.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_bounded(
        path: &Path,
        secret: Secret,
        map_bytes: usize,
        filter_bytes_max: usize,
    ) -> Result<Self, WorldError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        if path.exists() {
            // A process that died just after it had exchanged the index may have left names that are
            // not durable: were the power cut later, the index from before would be back, which knows
            // nothing of what was written since and is about to be removed.
            sync_directory(parent).map_err(|error| io_failed(parent, &error))?;
        }
        // What a rebuilding or a compaction left that was killed, before or after the exchange.
        let left = successor_path(path);
        remove_directory(&left).map_err(|error| io_failed(&left, &error))?;
        if !path.exists() {
            Self::make(path, map_bytes)?;
        }
        let env = open_env(path, map_bytes)?;
        // A process that was killed in the middle of a page leaves a slot that stops page reuse.
        env.clear_stale_readers().map_err(|error| failed(&error))?;
        let txn = env.read_txn().map_err(|error| failed(&error))?;
        // An index of another version may have other tables.
        check_version(&env, &txn)?;
        let tables = open_tables(&env, &txn)?;
        // Handles that a transaction opened stay open only if it is committed.
        txn.commit().map_err(|error| failed(&error))?;
        let filters = RwLock::default();
        let growth = RwLock::new(());
        let index = Self { env, tables, secret, growth, filters, filter_bytes_max };
        index.renew_filters()?;
        Ok(index)
    }

    fn filters(&self) -> Arc<IdFilters> {
        Arc::clone(&self.filters.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Makes filters for the runs that have none, and forgets those of runs that are gone.
    fn renew_filters(&self) -> Result<(), WorldError> {
        let have = self.filters();
        let renewed = self.read(|rows| have.renewed(rows, &self.secret, self.filter_bytes_max))?;
        *self.filters.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(renewed);
        Ok(())
    }

    /// Makes an empty index under a temporary name and renames it, all of it durable.
    fn make(path: &Path, map_bytes: usize) -> Result<(), WorldError> {
        let parent = path.parent().unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary: PathBuf = parent.join(format!("{name}.new"));
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary).map_err(|error| io_failed(&temporary, &error))?;
        }
        std::fs::create_dir_all(&temporary).map_err(|error| io_failed(&temporary, &error))?;
        let env = open_env(&temporary, map_bytes)?;
        let mut txn = env.write_txn().map_err(|error| failed(&error))?;
        for table in Table::ALL {
            let rows: TableRows = env
                .create_database(&mut txn, Some(table.name()))
                .map_err(|error| failed(&error))?;
            if table == Table::Meta {
                rows.put(&mut txn, META_VERSION, &INDEX_VERSION.to_be_bytes())
                    .map_err(|error| failed(&error))?;
            }
        }
        txn.commit().map_err(|error| failed(&error))?;
        env.prepare_for_closing().wait();
        let data = temporary.join(DATA_FILE);
        let synced = std::fs::File::open(&data)
            .and_then(|file| sync_file(&file))
            .and_then(|()| sync_directory(&temporary))
            .and_then(|()| std::fs::rename(&temporary, path))
            .and_then(|()| sync_directory(parent));
        synced.map_err(|error| io_failed(path, &error))
    }

    /// Runs `read` in one snapshot.
    fn read<T>(
        &self,
        read: impl FnOnce(&dyn ReadRows) -> Result<T, WorldError>,
    ) -> Result<T, WorldError> {
        // The lock guards nothing that a panicking holder could leave half done.
        let _shared = self.growth.read().unwrap_or_else(PoisonError::into_inner);
        let txn = self.env.read_txn().map_err(|error| failed(&error))?;
        let filters = self.filters();
        read(&Snapshot { tables: &self.tables, txn: &txn, filters: &filters, secret: &self.secret })
    }

    /// One try to write; `None` if the map is full.
    fn try_write<T>(
        &self,
        write: &mut dyn FnMut(&mut Writing<'_>) -> Result<T, WorldError>,
    ) -> Result<Option<T>, WorldError> {
        let _shared = self.growth.read().unwrap_or_else(PoisonError::into_inner);
        let txn = self.env.write_txn().map_err(|error| failed(&error))?;
        let mut writing = Writing { tables: &self.tables, txn, map_is_full: false };
        match write(&mut writing) {
            Err(_) if writing.map_is_full => Ok(None),
            Err(error) => Err(error),
            Ok(written) => match writing.txn.commit() {
                Ok(()) => Ok(Some(written)),
                Err(error) if is_map_full(&error) => Ok(None),
                Err(error) => Err(failed(&error)),
            },
        }
    }

    /// Writes in one transaction, which is begun again with a larger map if the map was full.
    fn write<T>(
        &self,
        mut write: impl FnMut(&mut Writing<'_>) -> Result<T, WorldError>,
    ) -> Result<T, WorldError> {
        loop {
            match self.try_write(&mut write)? {
                Some(written) => return Ok(written),
                None => self.grow()?,
            }
        }
    }

    fn grow(&self) -> Result<(), WorldError> {
        let _alone = self.growth.write().unwrap_or_else(PoisonError::into_inner);
        let map_bytes = self.env.info().map_size.saturating_mul(2);
        if map_bytes > MAP_BYTES_LAST {
            return Err(WorldError::Index("the map is full and cannot grow further".to_owned()));
        }
        // SAFETY: the map may be replaced only while no transaction is open in this process. Every
        // transaction of this environment lives within `read` or `try_write`, which hold
        // `growth` shared as long as it does; this holds it alone.
        unsafe { self.env.resize(map_bytes) }.map_err(|error| failed(&error))
    }

    /// Closes the files, so that they may be moved.
    pub fn close(self) {
        self.env.prepare_for_closing().wait();
    }

    /// Writes an index anew without the free pages in it, and puts it in place of the old one.
    ///
    /// # Errors
    /// [`WorldError::Index`] when it cannot be opened or the file system fails; the old index is
    /// there then.
    pub fn compact(path: &Path, secret: Secret, map_bytes: usize) -> Result<(), WorldError> {
        let index = Self::open(path, secret, map_bytes)?;
        let successor = successor_path(path);
        let copied = remove_directory(&successor)
            .and_then(|()| std::fs::create_dir(&successor))
            .map_err(|error| io_failed(&successor, &error))
            .and_then(|()| {
                let data = successor.join(DATA_FILE);
                let copied = index.env.copy_to_path(data, CompactionOption::Enabled);
                copied.map_err(|error| failed(&error))
            });
        index.close();
        let file = copied?;
        sync_file(&file).map_err(|error| io_failed(&successor, &error))?;
        supersede(path)
    }

    /// Opens the empty successor of the index at `path`, to be filled and, with [`supersede`], put
    /// in its place. One that an earlier attempt left is removed.
    ///
    /// # Errors
    /// [`WorldError::Index`] when it cannot be made.
    pub fn successor(path: &Path, secret: Secret, map_bytes: usize) -> Result<Self, WorldError> {
        let successor = successor_path(path);
        remove_directory(&successor).map_err(|error| io_failed(&successor, &error))?;
        Self::open(&successor, secret, map_bytes)
    }

    /// How far the next transaction may make the file grow: a page for each changed record, but not
    /// more than there are in use, and what is added, all of it copied once more by splits. Pages
    /// that are free already are used first; half of them may still be held back by a reader.
    fn room_needed(&self, records: u64, bytes: u64) -> Result<u64, WorldError> {
        let used = self.read_pages()?;
        let changed = records.saturating_mul(PAGE_ROOM_BYTES).min(used);
        let added = bytes.saturating_mul(2).saturating_add(ROOM_BYTES_MIN);
        let free = self.file_bytes()?.saturating_sub(used) / 2;
        Ok(changed.saturating_add(added).saturating_sub(free).max(added))
    }

    /// Bytes of the pages in use.
    fn read_pages(&self) -> Result<u64, WorldError> {
        let _shared = self.growth.read().unwrap_or_else(PoisonError::into_inner);
        let txn = self.env.read_txn().map_err(|error| failed(&error))?;
        let mut bytes = 0;
        for table in &self.tables {
            let stat = table.stat(&txn).map_err(|error| failed(&error))?;
            let pages = stat.branch_pages + stat.leaf_pages + stat.overflow_pages;
            bytes += pages as u64 * u64::from(stat.page_size);
        }
        Ok(bytes)
    }

    /// Bytes of the map as it is now.
    pub fn map_bytes(&self) -> usize {
        self.env.info().map_size
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// [`WorldError::Index`] when the file system fails.
    pub fn file_bytes(&self) -> Result<u64, WorldError> {
        self.env.real_disk_size().map_err(|error| failed(&error))
    }
}

/// Where the successor of an index is made.
fn successor_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("{name}.next"))
}

fn remove_directory(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Puts the closed successor of the index at `path` in its place, whole or not at all, and removes
/// the old one.
///
/// # Errors
/// [`WorldError::Index`] when the file system fails.
pub fn supersede(path: &Path) -> Result<(), WorldError> {
    let successor = successor_path(path);
    let parent = path.parent().unwrap_or(Path::new("."));
    let exchange = || {
        let data = std::fs::File::open(successor.join(DATA_FILE))?;
        sync_file(&data)?;
        sync_directory(&successor)?;
        if path.exists() {
            exchange_names(&successor, path)?;
        } else {
            std::fs::rename(&successor, path)?;
        }
        sync_directory(parent)?;
        remove_directory(&successor)
    };
    exchange().map_err(|error| io_failed(path, &error))
}

/// Exchanges two names in one step where the file system can. Where it cannot, a death between two
/// renames leaves no index, and the next start builds one from the log.
fn exchange_names(one: &Path, other: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            let aside = other.with_extension("old");
            remove_directory(&aside)?;
            std::fs::rename(other, &aside)?;
            std::fs::rename(one, other)?;
            std::fs::rename(&aside, one)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_version(env: &Env<WithoutTls>, txn: &RoTxn<'_, WithoutTls>) -> Result<(), WorldError> {
    let meta: Option<TableRows> =
        env.open_database(txn, Some(Table::Meta.name())).map_err(|error| failed(&error))?;
    let mut version: Option<u32> = None;
    if let Some(meta) = meta {
        read_row(&meta, txn, META_VERSION, &mut |value| {
            version = value.try_into().ok().map(u32::from_be_bytes);
        })?;
    }
    match version {
        Some(INDEX_VERSION) => Ok(()),
        Some(version) if version > INDEX_VERSION => Err(WorldError::Index(format!(
            "format version {version} is newer than this program, which reads {INDEX_VERSION}"
        ))),
        Some(version) => Err(WorldError::Index(format!(
            "format version {version} is older than this program, which reads {INDEX_VERSION}: \
             rebuild it from the log with `turnpike reindex`"
        ))),
        None => Err(WorldError::Index("the format version is missing".to_owned())),
    }
}

fn open_tables(
    env: &Env<WithoutTls>,
    txn: &RoTxn<'_, WithoutTls>,
) -> Result<[TableRows; Table::ALL.len()], WorldError> {
    let mut tables = Vec::with_capacity(Table::ALL.len());
    for table in Table::ALL {
        let rows: Option<TableRows> =
            env.open_database(txn, Some(table.name())).map_err(|error| failed(&error))?;
        let missing = || WorldError::Index(format!("table {} is missing", table.name()));
        tables.push(rows.ok_or_else(missing)?);
    }
    Ok(tables.try_into().expect("one was pushed for each of Table::ALL"))
}

/// Rows of one reading transaction.
struct Snapshot<'a> {
    tables: &'a [TableRows; Table::ALL.len()],
    txn: &'a RoTxn<'a, WithoutTls>,
    filters: &'a IdFilters,
    secret: &'a Secret,
}

fn read_row(
    rows: &TableRows,
    txn: &RoTxn<'_>,
    key: &[u8],
    read: &mut dyn FnMut(&[u8]),
) -> Result<(), WorldError> {
    if let Some(value) = rows.get(txn, key).map_err(|error| failed(&error))? {
        read(value);
    }
    Ok(())
}

fn walk_rows(
    rows: &TableRows,
    txn: &RoTxn<'_>,
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), WorldError> {
    // LMDB cannot seek to an empty key.
    let from = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
    let range = (from, Bound::Unbounded);
    for row in rows.range(txn, &range).map_err(|error| failed(&error))? {
        let (key, value) = row.map_err(|error| failed(&error))?;
        if !visit(key, value) {
            break;
        }
    }
    Ok(())
}

fn count_rows(rows: &TableRows, txn: &RoTxn<'_>) -> Result<usize, WorldError> {
    let count = rows.len(txn).map_err(|error| failed(&error))?;
    Ok(usize::try_from(count).unwrap_or(usize::MAX))
}

impl ReadRows for Snapshot<'_> {
    fn row(&self, table: Table, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), WorldError> {
        read_row(&self.tables[table as usize], self.txn, key, read)
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), WorldError> {
        walk_rows(&self.tables[table as usize], self.txn, from, visit)
    }

    fn count(&self, table: Table) -> Result<usize, WorldError> {
        count_rows(&self.tables[table as usize], self.txn)
    }

    fn may_have_id(&self, run: u32, id: &EventId) -> bool {
        self.filters.may_have(self.secret, run, id)
    }
}

/// Rows of the one writing transaction.
struct Writing<'a> {
    tables: &'a [TableRows; Table::ALL.len()],
    txn: RwTxn<'a>,
    map_is_full: bool,
}

impl Writing<'_> {
    /// Sequences and the numbers of runs only rise, so the places of new events and the rows of a
    /// generation that is being sealed go to the end: full pages, no search. A rewriting of the log
    /// changes places that are there already.
    fn put_flags(&self, table: Table, rows: &Rows) -> Result<PutFlags, heed::Error> {
        if table != Table::Loc && !Table::SPLIT.contains(&table) {
            return Ok(PutFlags::empty());
        }
        let first = rows.iter().find_map(|(key, value)| value.map(|_| key));
        let last = self.tables[table as usize].last(&self.txn)?;
        let is_new = last.is_none_or(|(last, _)| first > Some(last));
        Ok(if is_new { PutFlags::APPEND } else { PutFlags::empty() })
    }

    fn try_apply(&mut self, table: Table, rows: &Rows) -> Result<(), heed::Error> {
        let to = &self.tables[table as usize];
        let flags = self.put_flags(table, rows)?;
        if rows.iter().all(|(_, value)| value.is_some()) {
            // One cursor stays where the last row went, and finds the place of the next one in the
            // same page without a search from the root.
            let mut cursor = to.iter_mut(&mut self.txn)?;
            for (key, value) in rows.iter() {
                let value = value.unwrap_or_default();
                // SAFETY: key and value must not lie in the map, which the write may move. They are
                // borrowed from `rows`, whose bytes are its own.
                unsafe { cursor.put_current_with_options::<Bytes>(flags, key, value)? };
            }
            return Ok(());
        }
        for (key, value) in rows.iter() {
            match value {
                Some(value) => to.put_with_flags(&mut self.txn, flags, key, value)?,
                None => {
                    to.delete(&mut self.txn, key)?;
                }
            }
        }
        Ok(())
    }
}

impl ReadRows for Writing<'_> {
    fn row(&self, table: Table, key: &[u8], read: &mut dyn FnMut(&[u8])) -> Result<(), WorldError> {
        read_row(&self.tables[table as usize], &self.txn, key, read)
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), WorldError> {
        walk_rows(&self.tables[table as usize], &self.txn, from, visit)
    }

    fn count(&self, table: Table) -> Result<usize, WorldError> {
        count_rows(&self.tables[table as usize], &self.txn)
    }
}

impl WriteRows for Writing<'_> {
    fn apply(&mut self, table: Table, rows: &Rows) -> Result<(), WorldError> {
        self.try_apply(table, rows).map_err(|error| {
            self.map_is_full |= is_map_full(&error);
            failed(&error)
        })
    }

    fn clear(&mut self, table: Table) -> Result<(), WorldError> {
        self.tables[table as usize].clear(&mut self.txn).map_err(|error| {
            self.map_is_full |= is_map_full(&error);
            failed(&error)
        })
    }
}

impl Index for LmdbIndex {
    fn applied(&self) -> Result<Seq, WorldError> {
        self.read(index::applied)
    }

    fn scan(&self, request: &ScanRequest) -> Result<IndexPage, WorldError> {
        self.read(|rows| index::scan(rows, request))
    }

    fn lookup(&self, keys: &[LookupKey]) -> Result<Vec<Found>, WorldError> {
        self.read(|rows| index::lookup(rows, keys))
    }

    fn expired(
        &self,
        unix_s: u64,
        after: Option<(u64, Seq)>,
        rows_max: u32,
    ) -> Result<Vec<IndexRow>, WorldError> {
        self.read(|rows| index::expired(rows, unix_s, after, rows_max))
    }

    fn ask(&self, question: &Question) -> Result<Answer, WorldError> {
        self.read(|rows| index::ask(rows, question))
    }

    fn purges(&self) -> Result<Vec<Purge>, WorldError> {
        self.read(index::purges)
    }

    fn resum(&self, filters: &[Filter], bodies: &dyn Bodies) -> Result<Resummed, WorldError> {
        // An ordinary start finds the sums as they are to be, and need not write.
        if self.read(|rows| index::sums::are_of(rows, filters))? {
            return Ok(Resummed::default());
        }
        self.write(|rows| index::sums::resum(rows, filters, bodies))
    }

    fn checkpoint(&self, generation: &Generation, bodies: &dyn Bodies) -> Result<Seq, WorldError> {
        self.write(|rows| index::write_generation(rows, generation, bodies, &self.secret))
    }

    fn upkeep(&self, request: &UpkeepRequest) -> Result<UpkeepDone, WorldError> {
        let done = self.write(|rows| index::upkeep(rows, request))?;
        if matches!(done.did, Did::Sealed { .. }) {
            self.renew_filters()?;
        }
        Ok(done)
    }

    fn generations(&self) -> Result<Vec<IndexGeneration>, WorldError> {
        self.read(|rows| Generations::read(rows).map(|have| have.list().to_vec()))
    }

    fn segments(&self) -> Result<Vec<(Seq, SegmentRow)>, WorldError> {
        self.read(segments::segments)
    }

    fn locs(&self, from: Seq, to: Seq, rows_max: usize) -> Result<Vec<IndexRow>, WorldError> {
        self.read(|rows| segments::locs(rows, from, to, rows_max))
    }

    fn reserve(&self, records: u64, bytes: u64) -> Result<(), WorldError> {
        let need = self.room_needed(records, bytes)?;
        let path = self.env.path().join(DATA_FILE);
        let file = std::fs::File::options().write(true).open(&path);
        let file = file.map_err(|error| io_failed(&path, &error))?;
        let end = self.file_bytes()?;
        reserve_file(&file, end, end + need).map_err(|error| match error.kind() {
            kind if is_no_space(kind) => WorldError::NoSpace(path.display().to_string()),
            _ => io_failed(&path, &error),
        })
    }

    fn remap(&self, remap: &Remap) -> Result<(), WorldError> {
        self.write(|rows| segments::remap(rows, remap))
    }

    fn adopt(&self, adopted: &[(Seq, SegmentRow)]) -> Result<(), WorldError> {
        self.write(|rows| segments::adopt(rows, adopted))
    }

    fn missing_rows(&self, events: &[(Seq, EventKeys)]) -> Result<Vec<Vec<Table>>, WorldError> {
        self.read(|rows| index::missing_rows(rows, events))
    }

    fn sketched(&self, visit: &mut dyn FnMut(Sketched)) -> Result<(), WorldError> {
        self.read(|rows| index::sketched(rows, visit))
    }

    fn sketched_count(&self) -> Result<SketchedCount, WorldError> {
        self.read(index::sketched_count)
    }
}

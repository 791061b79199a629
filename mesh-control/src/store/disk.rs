//! The redb file: one table of objects by their path, one of counters. Nothing here knows what an object means.

use std::fs::OpenOptions;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde_json::Value;

use super::history::{Event, EventType};
use super::{Collection, Key, MAX_OBJECT_BYTES, MAX_OBJECTS, Stored};

/// `resource/namespace/name` → JSON. Names cannot hold a slash.
const OBJECTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("objects");
const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");
/// VIP → the name that has it, so that a restart moves nobody.
const VIPS: TableDefinition<'_, &str, &str> = TableDefinition::new("vips");
const VERSION: &str = "resourceVersion";
/// The form of the file; another number is refused instead of guessed at.
const FORMAT: &str = "format";
const FORMAT_NOW: u64 = 1;
/// A file up to this size, beyond four times what is in it, is not worth being made smaller.
const ROOM: u64 = 4 << 20;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("cannot open {path}: {source}")]
    Open { path: String, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{path} has format {found}; this version reads format {FORMAT_NOW}")]
    Format { path: String, found: u64 },
    #[error("the stored object {key} cannot be read: {why}")]
    Corrupt { key: String, why: String },
    #[error("cannot write: {0}")]
    Write(Box<redb::Error>),
    #[error("the object has {bytes} bytes; the limit is {MAX_OBJECT_BYTES}")]
    TooLarge { bytes: usize },
    #[error("there are already {MAX_OBJECTS} objects, which is the limit")]
    TooManyObjects,
}

/// redb's errors are large and many; they are one thing here.
fn failed(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Write(Box::new(error.into()))
}

#[derive(Debug)]
pub(super) struct Disk(Database);

impl Disk {
    /// Opens or creates the file; returns the counter and every object.
    pub(super) fn open(path: &Path) -> Result<(Self, u64, Vec<Stored>), StoreError> {
        let shown = path.display().to_string();
        let open_error = |source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path: shown.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| open_error(Box::new(e)))?;
        // The objects are in memory anyway: redb's own cache (1 GiB by default) would hold them twice.
        let mut database = Database::builder().set_cache_size(8 << 20).create_file(file).map_err(|e| open_error(Box::new(e)))?;
        if let Some(parent) = path.parent() {
            // The file's name must survive a power cut too.
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            std::fs::File::open(parent).and_then(|dir| dir.sync_all()).map_err(|e| open_error(Box::new(e)))?;
        }
        let format = Self::prepare(&database)?;
        if format != FORMAT_NOW {
            return Err(StoreError::Format { path: shown, found: format });
        }
        let (version, objects) = Self::load(&database)?;
        let (held, used) =
            (std::fs::metadata(path).map_or(0, |file| file.len()), objects.iter().map(|o| o.bytes as u64).sum::<u64>());
        if held > ROOM + 4 * used {
            // What rules have left that were deleted or replaced. While nobody asks: it takes as long as writing all of it.
            database.compact().map_err(|e| open_error(Box::new(e)))?;
        }
        Ok((Self(database), version, objects))
    }

    /// Makes the tables on first use; returns the file's format.
    fn prepare(database: &Database) -> Result<u64, StoreError> {
        let transaction = database.begin_write().map_err(failed)?;
        let format = {
            transaction.open_table(OBJECTS).map_err(failed)?;
            transaction.open_table(VIPS).map_err(failed)?;
            let mut counters = transaction.open_table(COUNTERS).map_err(failed)?;
            let found = counters.get(FORMAT).map_err(failed)?.map(|v| v.value());
            if found.is_none() {
                counters.insert(FORMAT, FORMAT_NOW).map_err(failed)?;
                counters.insert(VERSION, 0).map_err(failed)?;
            }
            found.unwrap_or(FORMAT_NOW)
        };
        transaction.commit().map_err(failed)?;
        Ok(format)
    }

    fn load(database: &Database) -> Result<(u64, Vec<Stored>), StoreError> {
        let transaction = database.begin_read().map_err(failed)?;
        let counters = transaction.open_table(COUNTERS).map_err(failed)?;
        let version = counters.get(VERSION).map_err(failed)?.map_or(0, |v| v.value());
        let table = transaction.open_table(OBJECTS).map_err(failed)?;
        let mut objects = Vec::new();
        for row in table.iter().map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            objects.push(stored(key.value(), value.value())?);
        }
        Ok((version, objects))
    }

    /// Who has which VIP.
    pub(super) fn vips(&self) -> Result<Vec<(IpAddr, String)>, StoreError> {
        let transaction = self.0.begin_read().map_err(failed)?;
        let table = transaction.open_table(VIPS).map_err(failed)?;
        let mut vips = Vec::new();
        for row in table.iter().map_err(failed)? {
            let (address, name) = row.map_err(failed)?;
            let address = address.value();
            let parsed = address.parse().map_err(|_no_address: std::net::AddrParseError| StoreError::Corrupt {
                key: format!("vips/{address}"),
                why: "it is no address".to_owned(),
            })?;
            vips.push((parsed, name.value().to_owned()));
        }
        Ok(vips)
    }

    /// Replaces all of them.
    pub(super) fn keep_vips(&mut self, vips: impl Iterator<Item = (IpAddr, String)>) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(failed)?;
        {
            let mut table = transaction.open_table(VIPS).map_err(failed)?;
            table.retain(|_, _| false).map_err(failed)?;
            for (address, name) in vips {
                table.insert(address.to_string().as_str(), name.as_str()).map_err(failed)?;
            }
        }
        transaction.commit().map_err(failed)
    }

    /// Writes all events and the counter in one transaction; on disk when it returns.
    pub(super) fn commit(&mut self, events: &[Event], version: u64) -> Result<(), StoreError> {
        let transaction = self.0.begin_write().map_err(failed)?;
        {
            let mut objects = transaction.open_table(OBJECTS).map_err(failed)?;
            for event in events {
                let key = &event.stored.key;
                let path = format!("{}/{}/{}", key.collection.plural(), key.namespace, key.name);
                if event.kind == EventType::Deleted {
                    objects.remove(path.as_str()).map_err(failed)?;
                } else {
                    let json = event.stored.object.to_string();
                    objects.insert(path.as_str(), json.as_bytes()).map_err(failed)?;
                }
            }
            transaction.open_table(COUNTERS).map_err(failed)?.insert(VERSION, version).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }
}

/// Reads one row.
fn stored(path: &str, json: &[u8]) -> Result<Stored, StoreError> {
    let corrupt = |why: String| StoreError::Corrupt { key: path.to_owned(), why };
    let mut parts = path.splitn(3, '/');
    let (Some(plural), Some(namespace), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(corrupt("not resource/namespace/name".to_owned()));
    };
    let collection = Collection::ALL
        .into_iter()
        .find(|collection| collection.plural() == plural)
        .ok_or_else(|| corrupt("this version knows no such resource".to_owned()))?;
    let object: Value = serde_json::from_slice(json).map_err(|e| corrupt(e.to_string()))?;
    let version = object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok());
    let version = version.ok_or_else(|| corrupt("it has no resourceVersion".to_owned()))?;
    let key = Key { collection, namespace: namespace.to_owned(), name: name.to_owned() };
    // Which of its writes were a client's is not kept: what is in force now is all that is here.
    Ok(Stored { key, version, written: version, bytes: json.len(), object })
}

//! What a person does with the store of a daemon that does not run. Each takes the data folder's lock, so that no daemon is in it.

use crate::check::{self, CheckReport};
use crate::error::OpenError;
use crate::export::{self, ExportError, ExportReport};
use crate::import::{self, ImportError, ImportReport};
use crate::sled_disk::{SledDisk, SledOptions};
use crate::store::{Store, identity};
use std::io::{BufRead, Write};
use std::path::Path;

/// A command on a store could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The store cannot be opened.
    #[error("the store cannot be opened")]
    Open(#[from] OpenError),
    /// The check broke off.
    #[error("the check broke off")]
    Check(#[from] crate::ReadError),
    /// The export broke off.
    #[error("the export broke off")]
    Export(#[from] ExportError),
    /// The import broke off.
    #[error("the import broke off")]
    Import(#[from] ImportError),
}

/// Reads every record of the store in a data folder. Changes none; sled itself may tidy up its log while it opens.
///
/// # Errors
/// There is no store, it is a newer release's, or it cannot be read at all. Records that are wrong are in the report.
pub fn check(data_dir: &Path) -> Result<CheckReport, OfflineError> {
    let disk = SledDisk::open_as_it_is(data_dir)?;
    identity(&disk)?;
    Ok(check::check(&disk)?)
}

/// Writes a JSON line for each event that Kafka has not got: `{"gateway","epoch","seq","terminal","requestId","event"}`, dead letters
/// with `dead` and held events with `heldBehind` besides. The store stays as it is.
///
/// # Errors
/// There is no store, it cannot be read, or the lines cannot be written.
pub fn export(data_dir: &Path, out: impl Write) -> Result<ExportReport, OfflineError> {
    let disk = SledDisk::open_as_it_is(data_dir)?;
    match identity(&disk)? {
        Some(identity) => Ok(export::export(&disk, &identity.gateway, out)?),
        None => Ok(ExportReport::default()),
    }
}

/// Takes exported lines into the store of a data folder, or into a new one. Safe to repeat.
///
/// # Errors
/// What was imported before it stays.
pub fn import(options: SledOptions, mut input: impl BufRead) -> Result<ImportReport, OfflineError> {
    let Some(first) = import::read_line(&mut input, 1)? else { return Ok(ImportReport::default()) };
    let gateway = import::gateway_of(&first)?;
    let disk = SledDisk::open(options)?;
    if let Some(own) = identity(&disk)?
        && own.gateway != gateway
    {
        let reason = format!("it is gateway {gateway}'s, and the store is {}'s", own.gateway);
        return Err(ImportError::Line { line: 1, reason }.into());
    }
    let (mut store, _) = Store::open(disk, gateway)?;
    let first = std::io::Cursor::new(first + "\n");
    Ok(store.import(std::io::Read::chain(first, input))?)
}

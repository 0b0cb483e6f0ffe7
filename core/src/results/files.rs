//! Files that appear whole or not at all.

use std::fs::Permissions;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::ResultsError;

/// Writes `path` through a temporary file in its directory that is renamed when complete.
///
/// The new file has the permissions that the process's mask gives, as one made by `File::create` has.
///
/// # Errors
/// [`ResultsError::Io`] when the directory cannot be written or `write` fails; `path` is then as it was before.
pub fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), ResultsError> {
    let directory = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let file = tempfile::Builder::new()
        .prefix(".qbench-")
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
        .map_err(ResultsError::io("write in", directory))?;
    let mut buffer = BufWriter::new(file);
    write(&mut buffer).map_err(ResultsError::io("write", path))?;
    let file = buffer
        .into_inner()
        .map_err(|error| ResultsError::io("write", path)(error.into_error()))?;
    file.as_file()
        .sync_all()
        .map_err(ResultsError::io("write", path))?;
    file.persist(path)
        .map_err(|error| ResultsError::io("write", path)(error.error))?;
    Ok(())
}

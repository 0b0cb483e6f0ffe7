//! Hashes that identify what took part in a run.

use std::{fmt::Write, fs::File, io, path::Path};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// SHA-256 of a file, hexadecimal.
///
/// # Errors
/// The file cannot be read.
pub fn sha256_of_file(path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    io::copy(&mut file, &mut HashWriter(&mut hasher)).with_context(|| format!("read {}", path.display()))?;
    Ok(hasher.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

struct HashWriter<'a>(&'a mut Sha256);

impl io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

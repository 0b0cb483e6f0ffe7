//! Plain or gzip, told by the first bytes.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

const MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Times its own size that a gzip file may grow. Nucleotides grow 4 to 5 times, with long runs of `N` perhaps 10 times;
/// deflate could reach 1032.
const MAX_EXPANSION: u64 = 50;

/// Bytes that any gzip file may hold, however small it is itself.
const ALWAYS_ALLOWED: u64 = 1 << 28;

/// Opens a file and decompresses what is compressed. What comes out of a gzip file is read into memory, so it is limited
/// to [`MAX_EXPANSION`] times its size or [`ALWAYS_ALLOWED`], whichever is more.
pub(super) fn open(path: &Path) -> io::Result<Box<dyn BufRead + Send>> {
    let file = File::open(path)?;
    let limit = (file.metadata()?.len().saturating_mul(MAX_EXPANSION)).max(ALWAYS_ALLOWED);
    let mut reader = BufReader::new(file);
    if reader.fill_buf()?.starts_with(&MAGIC) {
        // Many members: what bgzip writes.
        Ok(Box::new(BufReader::new(Limited {
            decompressed: MultiGzDecoder::new(reader),
            limit,
            left: limit,
        })))
    } else {
        Ok(Box::new(reader))
    }
}

/// A reader that fails beyond a number of bytes; ending there would look like a whole file.
struct Limited<R> {
    decompressed: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.decompressed.read(buffer)?;
        self.left = self.left.checked_sub(bytes as u64).ok_or_else(|| {
            let reason = format!(
                "it grows beyond {:.1} GB when decompressed, more than {MAX_EXPANSION} times its own size, which \
                 sequences do not; if that is meant, decompress it first: a plain file may be of any size",
                self.limit as f64 / 1e9
            );
            io::Error::new(io::ErrorKind::FileTooLarge, reason)
        })?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: usize, limit: u64) -> io::Result<usize> {
        let mut text = Vec::new();
        Limited {
            decompressed: io::repeat(b'A').take(bytes as u64),
            limit,
            left: limit,
        }
        .read_to_end(&mut text)
    }

    #[test]
    fn what_is_within_the_limit_is_read_whole() {
        assert_eq!(read(100_000, 100_000).unwrap(), 100_000);
        assert_eq!(read(0, 0).unwrap(), 0);
    }

    #[test]
    fn what_is_beyond_the_limit_is_an_error() {
        let error = read(100_001, 100_000).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert!(error.to_string().contains("decompress it first"), "{error}");
    }
}

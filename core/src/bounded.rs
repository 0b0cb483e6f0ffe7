//! Reading files that somebody else may have written, with a bound on the memory that it takes.

use std::fs::{self, File};
use std::io::{self, BufRead, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

/// Longest text that describes something: a model's config, an index of weights, a plan, a manifest. The longest that
/// are known, of indices of the largest models, have some megabytes.
pub const DESCRIPTION: u64 = 64 << 20;

/// Longest file with an entry for each token, sequence or cell: a tokenizer, the index of a reference, a table.
pub const LIST: u64 = 4 << 30;

/// Longest line of a journal: one record, with a number for each sequence.
pub const LINE: u64 = 1 << 30;

/// Opens a regular file. A pipe would be waited for, and a device has no end.
///
/// # Errors
/// It cannot be opened, or is something else.
pub fn open(path: &Path) -> io::Result<File> {
    if fs::metadata(path)?.is_file() {
        File::open(path)
    } else {
        Err(io::Error::new(ErrorKind::InvalidInput, "it is no regular file"))
    }
}

/// The content of a regular file of at most `most` bytes.
///
/// # Errors
/// It cannot be read, is no regular file, or is longer.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut content)?;
    if content.len() as u64 > most {
        return Err(too_long("it", most));
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
/// Those of [`read`]; it is no UTF-8.
pub fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|error| io::Error::new(ErrorKind::InvalidData, error))
}

/// The last `most` bytes of a regular file, or all of it.
///
/// # Errors
/// It cannot be read, or is no regular file.
pub fn read_end(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut file = open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most)))?;
    let mut end = Vec::new();
    file.take(most).read_to_end(&mut end)?;
    Ok(end)
}

/// Puts the next line into `line`, its line end included; nothing when there is none.
///
/// # Errors
/// It cannot be read, or has more than `most` bytes.
pub fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>, most: u64) -> io::Result<()> {
    line.clear();
    reader.take(most.saturating_add(1)).read_until(b'\n', line)?;
    if line.len() as u64 > most {
        return Err(too_long("a line", most));
    }
    Ok(())
}

fn too_long(what: &str, most: u64) -> io::Error {
    let reason = format!("{what} is longer than {most} bytes, the most that is read");
    io::Error::new(ErrorKind::FileTooLarge, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_within_the_bound_is_read_whole() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        assert_eq!(read_end(&path, 2).unwrap(), b"45");
        assert_eq!(read_end(&path, 9).unwrap(), b"12345");
        fs::write(&path, b"\xff").unwrap();
        assert_eq!(read_text(&path, 5).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn what_has_no_end_is_not_read() {
        for path in ["/dev/zero", "/"] {
            let error = read(Path::new(path), 5).unwrap_err();
            assert!(error.to_string().contains("no regular file"), "{error}");
        }
        assert_eq!(
            open(Path::new("/nowhere")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    }

    #[test]
    fn lines_are_read_one_at_a_time() {
        let mut text = &b"ab\n\ncde"[..];
        let mut line = Vec::new();
        for expected in [&b"ab\n"[..], b"\n", b"cde", b""] {
            read_line(&mut text, &mut line, 3).unwrap();
            assert_eq!(line, expected);
        }
        let mut long = &b"abcd\n"[..];
        let error = read_line(&mut long, &mut line, 3).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }
}

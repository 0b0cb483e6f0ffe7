//! What a shared library says of itself, before the system's loader sees it.
//!
//! The loader answers a library of another machine with "No such file or directory", and dies of one that was cut short.
//! Source: elf(5).

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// `e_machine` of processors that somebody may have built a plugin for.
const MACHINES: [(u64, &str); 6] = [
    (3, "x86"),
    (62, "x86_64"),
    (40, "arm"),
    (183, "aarch64"),
    (243, "riscv64"),
    (21, "powerpc64"),
];

/// Bytes of the file header and of an entry of the program headers, in a 64-bit file.
const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;

/// `e_type` of a shared library and of the compiler's unlinked output.
const SHARED: u64 = 3;
const RELOCATABLE: u64 = 1;
/// `p_type` of what is mapped.
const LOAD: u64 = 1;

/// Refuses what is no whole library for this machine.
///
/// # Errors
/// What the file is instead.
pub fn check_library(path: &Path) -> Result<()> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut head = Vec::new();
    file.by_ref().take(HEADER as u64).read_to_end(&mut head)?;
    let Some(elf) = head.strip_prefix(b"\x7fELF") else {
        bail!("expected a shared library (ELF), found {}", what_else(&head));
    };
    let cut_short = |whole: u64| {
        format!(
            "expected a shared library (ELF) of {whole} bytes at least, found the first {length} of it: the file was \
             cut short; build or copy it again"
        )
    };
    if head.len() < HEADER {
        bail!("{}", cut_short(HEADER as u64));
    }
    // The rest of e_ident starts with the class and the byte order.
    let (class, big_endian) = (elf[0], elf[1] == 2);
    let machine = number(&head, 18, 2, big_endian);
    let found = MACHINES.iter().find(|(number, _)| *number == machine);
    let found = found.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned());
    let here = std::env::consts::ARCH;
    if MACHINES.iter().any(|(_, name)| *name == here) && found != here {
        bail!(
            "expected a shared library for {here}, found one for {found}: build the plugin on this machine, or for it"
        );
    }
    if class != 2 {
        bail!("expected a 64-bit shared library, found a 32-bit one: build the plugin for {here}");
    }
    match number(&head, 16, 2, big_endian) {
        SHARED => {}
        RELOCATABLE => bail!(
            "expected a shared library, found an object file (.o) that is not linked: link it, in C with `cc -shared`"
        ),
        other => bail!(
            "expected a shared library, found an ELF file of type {other}, such as a program or a core dump"
        ),
    }
    let whole = end(&mut file, &head, big_endian)
        .with_context(|| cut_short(number(&head, 32, 8, big_endian).saturating_add(PROGRAM_HEADER as u64)))?;
    if whole > length {
        bail!("{}", cut_short(whole));
    }
    Ok(())
}

/// Where the last of what the headers name ends: mapped parts, and the section headers, which linkers put last.
fn end(file: &mut File, head: &[u8], big_endian: bool) -> Result<u64> {
    let field = |at, bytes| number(head, at, bytes, big_endian);
    let (programs, sections) = (field(32, 8), field(40, 8));
    let mut end = sections.saturating_add(field(58, 2) * field(60, 2));
    file.seek(SeekFrom::Start(programs))?;
    for _ in 0..field(56, 2) {
        let mut entry = [0; PROGRAM_HEADER];
        file.read_exact(&mut entry)?;
        let field = |at, bytes| number(&entry, at, bytes, big_endian);
        if field(0, 4) == LOAD {
            end = end.max(field(8, 8).saturating_add(field(32, 8)));
        }
    }
    Ok(end)
}

/// The unsigned number of `bytes` bytes at `at`.
fn number(head: &[u8], at: usize, bytes: usize, big_endian: bool) -> u64 {
    let digits = &head[at..at + bytes];
    let append = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
    if big_endian {
        digits.iter().fold(0, append)
    } else {
        digits.iter().rev().fold(0, append)
    }
}

fn what_else(head: &[u8]) -> &'static str {
    match head {
        [] => "an empty file",
        [0xcf, 0xfa, 0xed, 0xfe, ..] => "a library for macOS",
        [b'M', b'Z', ..] => "a library for Windows",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => {
            "an archive (.a or .rlib): build the plugin with crate-type = [\"cdylib\"]"
        }
        head if head
            .iter()
            .all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace()) =>
        {
            "text"
        }
        _ => "another file",
    }
}

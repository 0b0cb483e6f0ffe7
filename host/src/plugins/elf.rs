//! What the head of a shared library says, before the system's loader sees it.
//!
//! The loader answers a library of another machine with "No such file or directory". Source: elf(5).

use std::{fs::File, io::Read, path::Path};

use anyhow::{Result, bail};

/// `e_machine` of processors that somebody may have built a plugin for.
const MACHINES: [(u16, &str); 6] = [
    (3, "x86"),
    (62, "x86_64"),
    (40, "arm"),
    (183, "aarch64"),
    (243, "riscv64"),
    (21, "powerpc64"),
];

/// Refuses what is no library for this machine.
///
/// # Errors
/// What the file is instead.
pub(super) fn check(path: &Path) -> Result<()> {
    let mut head = [0; 20];
    let mut file = File::open(path)?;
    if file.read_exact(&mut head).is_err() || head[..4] != *b"\x7fELF" {
        bail!("expected a shared library (ELF), found {}", what_else(&head));
    }
    let machine = match head[5] {
        2 => u16::from_be_bytes([head[18], head[19]]),
        _ => u16::from_le_bytes([head[18], head[19]]),
    };
    let name = |machine: u16| {
        let known = MACHINES.iter().find(|(number, _)| *number == machine);
        known.map_or_else(|| format!("machine {machine}"), |(_, name)| (*name).to_owned())
    };
    let found = name(machine);
    if MACHINES.iter().any(|(_, name)| *name == std::env::consts::ARCH) && found != std::env::consts::ARCH {
        bail!(
            "expected a shared library for {}, found one for {found}: build the plugin on this machine, or for it",
            std::env::consts::ARCH
        );
    }
    Ok(())
}

fn what_else(head: &[u8]) -> &'static str {
    match head {
        [0xcf, 0xfa, 0xed, 0xfe, ..] => "a library for macOS",
        [b'M', b'Z', ..] => "a library for Windows",
        [b'!', b'<', b'a', b'r', b'c', b'h', b'>', ..] => {
            "an archive (.a or .rlib): build the plugin with crate-type = [\"cdylib\"]"
        }
        _ => "another file",
    }
}

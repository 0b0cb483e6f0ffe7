//! `qbench plugin new`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    cli::{OutputArgs, PluginNewArgs},
    failure::usage,
    plugins::executable_directory,
    printer,
};

/// The files of a new plugin. `.gitignore` has another name here: this repository must not obey it.
const FILES: [(&str, &str); 4] = [
    ("Cargo.toml", include_str!("../../templates/plugin/Cargo.toml")),
    ("src/lib.rs", include_str!("../../templates/plugin/src/lib.rs")),
    ("README.md", include_str!("../../templates/plugin/README.md")),
    (".gitignore", include_str!("../../templates/plugin/gitignore")),
];

/// Names that a Rust crate cannot have, or that would hide another.
const RESERVED: [&str; 44] = [
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "proc_macro",
    "pub",
    "qbench_sdk",
    "ref",
    "return",
    "self",
    "static",
    "std",
    "test",
    "true",
    "type",
];

pub(super) fn new(arguments: &PluginNewArgs, output: &OutputArgs) -> Result<ExitCode> {
    check_name(&arguments.name).map_err(usage)?;
    let folder = match &arguments.dir {
        Some(folder) => folder.clone(),
        None => PathBuf::from(&arguments.name),
    };
    if folder.exists() {
        return Err(usage(anyhow::anyhow!(
            "{} is there already: choose another name, or another place with --dir",
            folder.display()
        )));
    }
    let sdk = arguments.sdk.clone().or_else(own_sdk);
    let dependency = dependency(sdk.as_deref()).map_err(usage)?;
    let mut written = Vec::new();
    for (name, template) in FILES {
        let text = template
            .replace("{{name}}", &arguments.name)
            .replace("{{dependency}}", &dependency);
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(&folder);
        fs::create_dir_all(parent)
            .with_context(|| format!("create {}", parent.display()))
            .map_err(usage)?;
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        written.push(path);
    }
    if output.json {
        printer::json(&serde_json::json!({ "schema": "qbench.plugin-new/1", "files": written, "sdk": sdk }))?;
        return Ok(ExitCode::SUCCESS);
    }
    for path in &written {
        printer::out(&format!("wrote {}", path.display()));
    }
    let library = format!("./target/release/lib{}.so", arguments.name);
    let source = sdk.map_or_else(
        || "as published".to_owned(),
        |path| format!("in {}", path.display()),
    );
    printer::out(&format!(
        "\nIt builds against qbench-sdk {source}. Next:\n\n  cd {}\n  cargo test\n  cargo build --release\n  qbench plugin \
         check {library}\n  qbench --plugin {library}",
        folder.display()
    ));
    Ok(ExitCode::SUCCESS)
}

fn check_name(name: &str) -> Result<()> {
    let starts_well = name.starts_with(|first: char| first.is_ascii_lowercase());
    let is_word = name
        .chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    ensure!(
        starts_well && is_word,
        "the name `{name}`: expected lower-case letters, digits and `_`, such as my_scheme; it names the crate and the mode"
    );
    ensure!(
        !RESERVED.contains(&name),
        "the name `{name}` is taken by Rust or by the sdk; choose another"
    );
    Ok(())
}

/// The sdk that comes with this program: of the installation, or of the source tree that it was built in.
fn own_sdk() -> Option<PathBuf> {
    let installed = executable_directory().map(|directory| directory.join("../share/qbench/qbench-sdk"));
    let source_tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk");
    let mut places = installed.into_iter().chain([source_tree]);
    places.find(|place| place.join("Cargo.toml").is_file())
}

/// The lines of Cargo.toml that name the sdk.
fn dependency(sdk: Option<&Path>) -> Result<String> {
    let Some(sdk) = sdk else {
        let version = env!("CARGO_PKG_VERSION");
        return Ok(format!("qbench-sdk = \"{version}\""));
    };
    let sdk = sdk
        .canonicalize()
        .with_context(|| format!("--sdk {}", sdk.display()))?;
    let manifest = fs::read_to_string(sdk.join("Cargo.toml"));
    if !manifest.is_ok_and(|text| text.contains("name = \"qbench-sdk\"")) {
        bail!(
            "--sdk {}: expected the folder of the crate qbench-sdk, from the source tree or unpacked from its package",
            sdk.display()
        );
    }
    let dependency = format!("qbench-sdk = {{ path = {} }}", quoted(&sdk)?);
    if sdk.join("abi/Cargo.toml").is_file() {
        return Ok(dependency);
    }
    // A package names the sdk's own dependency by version; until that is published, it lies beside the sdk.
    let abi = quoted(&beside(&sdk)?)?;
    Ok(format!(
        "{dependency}\n\n[patch.crates-io]\nqbench-abi = {{ path = {abi} }}"
    ))
}

/// The unpacked crate qbench-abi in the folder in which the sdk lies.
fn beside(sdk: &Path) -> Result<PathBuf> {
    let folder = sdk.parent().unwrap_or(sdk);
    let mut found: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            (name == "qbench-abi" || name.starts_with("qbench-abi-")) && path.join("Cargo.toml").is_file()
        })
        .collect();
    found.sort();
    found.pop().with_context(|| {
        format!(
            "--sdk {}: expected the crate qbench-abi beside it, unpacked from its package as well",
            sdk.display()
        )
    })
}

/// A path as a TOML string.
fn quoted(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{}: a path that is no UTF-8", path.display()))?;
    // JSON's escapes are a part of TOML's.
    Ok(serde_json::to_string(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_crates() {
        for good in ["my_scheme", "q4", "a"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "4bit",
            "My",
            "my-scheme",
            "../up",
            "a b",
            "match",
            "std",
            "qbench_sdk",
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_folder_that_is_no_sdk_is_refused() {
        let error = dependency(Some(Path::new(env!("CARGO_MANIFEST_DIR")))).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("expected the folder of the crate qbench-sdk"),
            "{error}"
        );
        let lines = dependency(Some(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../sdk"))).unwrap();
        assert!(
            lines.starts_with("qbench-sdk = { path = \"/") && !lines.contains("patch"),
            "{lines}"
        );
    }
}

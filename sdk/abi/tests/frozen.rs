//! The ABI is frozen: what its types look like is compared with a committed text.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use qbench_abi::{
    CudaKernelRunner_Ref, CudaKernelSource_Ref, PluginRoot_Ref,
    abi_stable::{
        StableAbi,
        type_layout::{TLData, TLField, TypeLayout},
    },
};

/// Set to write the text anew.
const BLESS_VARIABLE: &str = "QBENCH_BLESS_ABI";

/// Types of abi_stable that are named with their parameters; the rest of it is pinned by its version.
const CONTAINERS: [&str; 8] = [
    "RResult",
    "ROption",
    "RVec",
    "RSlice",
    "RSliceMut",
    "&",
    "*const",
    "*mut",
];

/// What containers are made of, besides their parameters.
const INNARDS: [&str; 6] = ["NonNull", "PhantomData", "MutWorkaround", "*const", "*mut", "&"];

fn is_ours(layout: &TypeLayout) -> bool {
    layout.package().as_str() == env!("CARGO_PKG_NAME")
}

/// The types that a type names in its fields, functions and parameters.
fn parts(layout: &'static TypeLayout) -> impl Iterator<Item = &'static TypeLayout> {
    layout.shared_vars().type_layouts().iter().map(|part| part())
}

/// Name of a type. abi_stable's types keep their parameters to themselves: containers are named with what they hold.
fn name(layout: &'static TypeLayout) -> String {
    let full = layout.full_type().to_string();
    let base = full.split(['<', '[', ' ', '\'']).next().unwrap_or_default();
    if is_ours(layout) {
        // The tables of methods all have one name, each in the module of its trait.
        let module = layout.mod_path().to_string();
        return format!("{module}::{base}").replace("qbench_abi::", "");
    }
    let held = held(layout);
    if CONTAINERS.contains(&base) {
        format!("{base}<{}>", held.join(", "))
    } else {
        base.to_owned()
    }
}

fn held(container: &'static TypeLayout) -> Vec<String> {
    let mut names = Vec::new();
    for part in parts(container) {
        let name = name(part);
        if INNARDS.iter().any(|inner| name.starts_with(inner)) {
            names.extend(held(part));
        } else if name != "usize" && name != "PrefixRef" {
            names.push(name);
        }
    }
    let mut seen = BTreeSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn describe_field(field: &TLField, text: &mut String) {
    let mut is_function = false;
    for function in field.function_range() {
        is_function = true;
        let inputs: Vec<String> = function
            .param_type_layouts
            .iter()
            .map(|layout| name(layout()))
            .collect();
        let output = function
            .return_type_layout()
            .map_or("()".to_owned(), |layout| name(layout()));
        writeln!(text, "  {}: fn({}) -> {output}", field.name(), inputs.join(", ")).unwrap();
    }
    if !is_function {
        writeln!(text, "  {}: {}", field.name(), name(field.layout())).unwrap();
    }
}

fn describe(layout: &'static TypeLayout) -> String {
    let mut text = format!(
        "{}: size {}, alignment {}\n",
        name(layout),
        layout.size(),
        layout.alignment()
    );
    let fields = match layout.data() {
        TLData::Primitive(_) | TLData::Opaque => Vec::new(),
        TLData::Struct { fields } | TLData::Union { fields } => fields.to_vec(),
        TLData::Enum(data) => data.fields.to_vec(),
        TLData::PrefixType(data) => data.fields.to_vec(),
    };
    for field in &fields {
        describe_field(field, &mut text);
    }
    text
}

/// Every type of ours that can be reached from `roots`, by name: neither addresses nor the order of the walk show.
fn describe_all(roots: &[&'static TypeLayout]) -> String {
    let (mut seen, mut open, mut described) = (Vec::new(), roots.to_vec(), BTreeMap::new());
    while let Some(layout) = open.pop() {
        let id = layout.get_utypeid();
        if seen.contains(&id) {
            continue;
        }
        seen.push(id);
        open.extend(parts(layout));
        if is_ours(layout) {
            described.insert(name(layout), describe(layout));
        }
    }
    described.into_values().collect::<Vec<_>>().join("\n")
}

#[test]
fn the_types_are_those_of_abi_1() {
    // The root module, and the table of every extension.
    let found = describe_all(&[
        <PluginRoot_Ref as StableAbi>::LAYOUT,
        <CudaKernelSource_Ref as StableAbi>::LAYOUT,
        <CudaKernelRunner_Ref as StableAbi>::LAYOUT,
    ]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi-1.txt");
    if std::env::var_os(BLESS_VARIABLE).is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    let difference = found
        .lines()
        .zip(expected.lines())
        .find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "the types of the plugin ABI changed: plugins that are out there would be refused or misread.\nFirst \
         difference (found, expected): {difference:?}\nTake the change back and add an extension instead; sdk/abi/ABI.md \
         says how. Only before the first release, or for a new major version, accept it with \
         `{BLESS_VARIABLE}=1 cargo test -p qbench-abi`"
    );
}

//! Extensions: tables of functions that are looked up by id, whatever they are about.

use std::sync::{Mutex, PoisonError};

use qbench_abi::{
    Extension,
    abi_stable::{
        StableAbi, abi_stability::abi_checking::check_layout_compatibility, prefix_type::PrefixRefTrait,
        sabi_types::RRef, std_types::ROption, type_layout::TypeLayout,
    },
};

use crate::log::{self, Level};

/// The answer to a look-up: `table`, whose functions take `object` back as their first argument.
pub(super) fn answer<T, Table: PrefixRefTrait + StableAbi>(object: &T, table: Table) -> Extension<'_> {
    Extension {
        layout: Table::LAYOUT,
        // SAFETY: the receiver casts it back to the type that `layout` describes before it looks into it.
        table: unsafe { table.to_prefix_ref().cast() },
        // SAFETY: only functions of the table use it, as the reference to a `T` that it is.
        instance: unsafe { RRef::new(object).transmute() },
    }
}

/// The table of an answer and its functions' instance, if there is one and it is of this type.
pub(super) fn find<Table: PrefixRefTrait + StableAbi>(
    answer: ROption<Extension<'_>>,
) -> Option<(Table, RRef<'_, ()>)> {
    let answer = answer.into_option()?;
    matches(Table::LAYOUT, answer.layout).then(|| {
        // SAFETY: the table's layout says that it is of this type.
        let table = Table::from_prefix_ref(unsafe { answer.table.cast() });
        (table, answer.instance)
    })
}

/// Whether a table of another library has the expected type; one that has not is left alone, as if it were not there.
fn matches(expected: &'static TypeLayout, found: &'static TypeLayout) -> bool {
    // Each comparison walks all types of a table, and a model has hundreds of weights to be asked.
    static EQUAL: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());
    let pair = (
        std::ptr::from_ref(expected).addr(),
        std::ptr::from_ref(found).addr(),
    );
    let mut equal = EQUAL.lock().unwrap_or_else(PoisonError::into_inner);
    if equal.contains(&pair) {
        return true;
    }
    if check_layout_compatibility(expected, found).is_err() {
        log::log(
            Level::Warning,
            "sdk",
            "an extension's table has another type than expected; going on without the extension",
        );
        return false;
    }
    equal.push(pair);
    true
}

//! `memory_table.csv`: every weight of every mode.

use super::table::{Field, Table};
use crate::results::{Cell, WeightMemory};

/// One row a weight, in the order of loading; `None` when no cell recorded its weights.
pub fn memory_table(modes: &[(Cell, Vec<WeightMemory>)]) -> Option<Table> {
    let text = |text: &str| Field::Text(text.to_owned());
    let count = |count: u64| Field::Number(Some(count as f64));
    let mut rows = Vec::new();
    for (cell, weights) in modes {
        for weight in weights {
            rows.push(vec![
                text(&cell.mode),
                text(&weight.name),
                count(weight.rows as u64),
                count(weight.cols as u64),
                text(&weight.dtype),
                text(if weight.quantised { "yes" } else { "no" }),
                text(&weight.layout),
                Field::Number(Some(weight.declared_bits())),
                Field::Number(Some(weight.held_bits())),
                count(weight.declared_bytes),
                count(weight.held_bytes),
                text(&weight.execution),
                text(&cell.model),
                text(&cell.backend),
                text(&cell.device),
                text(&cell.precision),
            ]);
        }
    }
    let header = [
        "quantization",
        "tensor",
        "rows",
        "cols",
        "checkpoint_dtype",
        "stored_by_mode",
        "layout",
        "declared_bits_per_weight",
        "held_bits_per_weight",
        "declared_bytes",
        "held_bytes",
        "execution",
        "model",
        "backend",
        "device",
        "precision",
    ];
    (!rows.is_empty()).then(|| Table {
        file_name: "memory_table.csv",
        header: header.map(str::to_owned).to_vec(),
        rows,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::test_records::performance_record;

    #[test]
    fn each_weight_has_its_bits() {
        let weight = WeightMemory {
            name: "w".to_owned(),
            rows: 64,
            cols: 64,
            declared_bytes: 2368,
            held_bytes: 2432,
            ..WeightMemory::default()
        };
        let table = memory_table(&[(performance_record("4bit_nf4", 0).cell, vec![weight])]).unwrap();
        let field = |column: &str| {
            let place = table.header.iter().position(|name| name == column).unwrap();
            table.rows[0][place].to_text()
        };
        // 2368 · 8 / 4096 and 2432 · 8 / 4096.
        assert_eq!(
            (field("declared_bits_per_weight"), field("held_bits_per_weight")),
            ("4.625".to_owned(), "4.75".to_owned())
        );
        assert_eq!(
            (field("quantization"), field("held_bytes")),
            ("4bit_nf4".to_owned(), "2432".to_owned())
        );
        assert_eq!(memory_table(&[]), None);
    }
}

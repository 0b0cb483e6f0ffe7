//! Tables of text for reading: columns aligned, the first to the left, the others to the right.

/// A table under construction.
#[derive(Debug)]
pub(crate) struct TextTable {
    lines: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these column headings.
    pub(crate) fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            lines: vec![header.into_iter().map(str::to_owned).collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.lines.push(row);
    }

    /// The table, each line indented by two blanks and ended, a rule under the heading.
    pub(crate) fn render(&self) -> String {
        let columns = self.lines.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                self.lines
                    .iter()
                    .filter_map(|line| line.get(column))
                    .map(|text| width(text))
                    .max()
            })
            .map(Option::unwrap_or_default)
            .collect();
        let mut text = String::new();
        for (number, line) in self.lines.iter().enumerate() {
            let mut rendered = String::new();
            for (column, (field, &column_width)) in line.iter().zip(&widths).enumerate() {
                let padding = " ".repeat(column_width - width(field));
                rendered.push_str("  ");
                if column == 0 {
                    rendered.push_str(field);
                    rendered.push_str(&padding);
                } else {
                    rendered.push_str(&padding);
                    rendered.push_str(field);
                }
            }
            text.push_str(rendered.trim_end());
            text.push('\n');
            if number == 0 {
                let total = widths
                    .iter()
                    .map(|width| width + 2)
                    .sum::<usize>()
                    .saturating_sub(2);
                text.push_str("  ");
                text.push_str(&"-".repeat(total));
                text.push('\n');
            }
        }
        text
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = TextTable::new(["mode", "ms"]);
        table.push(vec!["8bit".to_owned(), "1.0 ± 0.5".to_owned()]);
        table.push(vec!["standard".to_owned(), "∞".to_owned()]);
        let expected =
            "  mode             ms\n  -------------------\n  8bit      1.0 ± 0.5\n  standard          ∞\n";
        assert_eq!(table.render(), expected);
    }
}

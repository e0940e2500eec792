//! Tables of text: columns that stand apart by two blanks, cut to a width if there is one.

use unicode_width::UnicodeWidthStr;

/// What stands for the rest of a cell that was cut.
const CUT: &str = "…";
const GAP: usize = 2;
/// Down to this a column gives way to the others, if its heading is not wider.
const NARROW: usize = 8;

/// A column's heading and its cells, one a row.
pub(super) struct Column {
    pub(super) title: String,
    pub(super) cells: Vec<String>,
    /// Whether cells stand at the right, as numbers do.
    pub(super) is_right: bool,
    /// Whether cells are cut only when no other column is left to be cut.
    pub(super) is_rigid: bool,
}

impl Column {
    fn width(&self) -> usize {
        self.cells.iter().map(|cell| cell.width()).max().unwrap_or_default().max(self.title.width())
    }
}

/// The heading and the rows, none wider than the limit.
pub(super) fn lines(columns: &[Column], limit: Option<usize>) -> Vec<String> {
    let widths = widths(columns, limit);
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or_default();
    let heading = line(columns, &widths, |column| Some(&column.title));
    let rows = (0..rows).map(|row| line(columns, &widths, |column| column.cells.get(row)));
    std::iter::once(heading).chain(rows).collect()
}

fn line<'a>(columns: &'a [Column], widths: &[usize], text: impl Fn(&'a Column) -> Option<&'a String>) -> String {
    let mut line = String::new();
    for (column, width) in columns.iter().zip(widths) {
        let cell = cut(text(column).map_or("", String::as_str), *width);
        let blanks = " ".repeat(width.saturating_sub(cell.width()));
        let (left, right) = if column.is_right { (blanks.as_str(), "") } else { ("", blanks.as_str()) };
        line.extend([left, &cell, right, "  "]);
    }
    line.truncate(line.trim_end().len());
    line
}

/// As wide as the cells are, less what the widest columns give up.
fn widths(columns: &[Column], limit: Option<usize>) -> Vec<usize> {
    let mut widths: Vec<usize> = columns.iter().map(Column::width).collect();
    let Some(limit) = limit else { return widths };
    let room = limit.saturating_sub(GAP * columns.len().saturating_sub(1));
    for width in &mut widths {
        *width = (*width).min(room);
    }
    while widths.iter().sum::<usize>() > room {
        let flexible = |column: &Column, width: usize| !column.is_rigid && width > NARROW.max(column.title.width());
        if !narrow(&mut widths, columns, flexible) && !narrow(&mut widths, columns, |_, width| width > 1) {
            break;
        }
    }
    widths
}

/// Takes one from the widest of those that may give way; whether there was any.
fn narrow(widths: &mut [usize], columns: &[Column], may: impl Fn(&Column, usize) -> bool) -> bool {
    let yielding = widths.iter_mut().zip(columns).filter(|(width, column)| may(column, **width));
    match yielding.max_by_key(|(width, _)| **width) {
        Some((width, _)) => {
            *width -= 1;
            true
        }
        None => false,
    }
}

/// A text that is no wider than this.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(CUT.width());
    let ends = text.char_indices().map(|(at, letter)| at + letter.len_utf8());
    let heads = ends.map_while(|end| text.get(..end).filter(|head| head.width() <= room));
    format!("{}{CUT}", heads.last().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn column(title: &str, cells: &[&str]) -> Column {
        let cells = cells.iter().map(|cell| (*cell).to_owned()).collect();
        Column { title: title.into(), cells, is_right: false, is_rigid: false }
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        let count = Column { is_right: true, ..column("COUNT", &["7", "123456"]) };
        let columns = [column("NAME", &["ann", "東京"]), count, column("STATE", &["on", ""])];
        let expected = ["NAME   COUNT  STATE", "ann        7  on", "東京  123456"];
        assert_eq!(lines(&columns, Some(80)), expected);
        assert_eq!(lines(&columns, None), expected);
        assert_eq!(lines(&[column("NAME", &[])], Some(80)), ["NAME"]);
    }

    #[test]
    fn the_widest_columns_are_cut_and_rigid_ones_last() {
        let id = Column { is_rigid: true, ..column("ID", &["0123456789abcdef"]) };
        let columns = [id, column("NAME", &[&"x".repeat(200)]), column("PLAN", &["Standard"])];
        let expected = ["ID                NAME        PLAN", "0123456789abcdef  xxxxxxxxx…  Standard"];
        assert_eq!(lines(&columns, Some(38)), expected);
        assert_eq!(lines(&columns, None)[1].len(), 16 + 2 + 200 + 2 + 8);
        let narrow = lines(&columns, Some(20));
        assert!(narrow.iter().all(|line| line.width() <= 20), "{narrow:?}");
    }

    #[test]
    fn a_cut_text_ends_before_the_letter_that_does_not_fit() {
        for (text, width, expected) in [
            ("Europe", 6, "Europe"),
            ("Europe 1", 6, "Europ…"),
            ("東京東京", 6, "東京…"),
            ("東京東京", 4, "東…"),
            ("東京", 1, "…"),
            ("e\u{301}e\u{301}e\u{301}", 2, "e\u{301}…"),
        ] {
            assert_eq!(cut(text, width), expected, "{text} {width}");
        }
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_limit(
            cells in prop::collection::vec(prop::collection::vec("\\PC{0,120}", 3), 1..10),
            rigid in prop::collection::vec(any::<bool>(), 10),
            limit in 40_usize..=80,
        ) {
            let columns: Vec<Column> = cells.into_iter().zip(rigid).map(|(cells, is_rigid)| {
                Column { title: "A HEADING".into(), cells, is_right: is_rigid, is_rigid }
            }).collect();
            let lines = lines(&columns, Some(limit));
            prop_assert_eq!(lines.len(), 4);
            for line in lines {
                prop_assert!(line.width() <= limit, "{}: {line}", line.width());
            }
        }
    }
}

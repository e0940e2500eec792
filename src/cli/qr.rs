use qrcode::render::unicode::Dense1x2;
use qrcode::{EcLevel, QrCode};

const BLACK_ON_WHITE: &str = "\u{1b}[30;107m";
const RESET: &str = "\u{1b}[0m";

/// A QR code of a text for a terminal, black on white whatever its colours; `None` if the text is too long.
pub(super) fn draw(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let picture = code.render::<Dense1x2>().build();
    let lines: Vec<String> = picture.lines().map(|line| format!("{BLACK_ON_WHITE}{line}{RESET}")).collect();
    Some(lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_drawn_as_a_square() {
        let picture = draw("https://vpn.example.com/activate#0123-4567-89AB-CDEF-GHJK-MNPQ-RS").unwrap();
        let widths: Vec<usize> = picture
            .lines()
            .map(|line| line.strip_prefix(BLACK_ON_WHITE).unwrap().strip_suffix(RESET).unwrap().chars().count())
            .collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{widths:?}");
        assert_eq!(widths[0].div_ceil(2), widths.len());
        assert!(draw(&"x".repeat(5000)).is_none());
    }
}

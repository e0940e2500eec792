//! Crockford's base 32, for what people read aloud and type: activation codes and support ids.

const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const GROUP: usize = 4;

/// The digit of a byte's last five bits.
pub fn digit(bits: u8) -> char {
    DIGITS.get(usize::from(bits % 32)).copied().map_or('0', char::from)
}

/// Whether a character is a digit, as they are written.
pub fn is_digit(letter: char) -> bool {
    u8::try_from(letter).is_ok_and(|byte| DIGITS.contains(&byte))
}

/// The digit that somebody meant by a character: in either case, with O for 0 and I or L for 1.
pub fn read(letter: char) -> Option<char> {
    let meant = match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    is_digit(meant).then_some(meant)
}

/// Digits in groups of four with hyphens between them.
pub fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() + digits.len() / GROUP);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && at % GROUP == 0 {
            text.push('-');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_bits_are_a_digit_and_every_digit_reads_as_itself() {
        let all: String = (0..32).map(digit).collect();
        assert_eq!(all, "0123456789ABCDEFGHJKMNPQRSTVWXYZ");
        assert_eq!(digit(0b1110_0001), '1', "further bits do not count");
        assert!(all.chars().all(|digit| is_digit(digit) && read(digit) == Some(digit)));
    }

    #[test]
    fn what_is_typed_is_read_as_it_was_meant() {
        let meant: String = "oOiIlLabz".chars().filter_map(read).collect();
        assert_eq!(meant, "001111ABZ");
        for other in ['U', 'u', '-', ' ', 'é', '０'] {
            assert_eq!((read(other), is_digit(other)), (None, false), "{other:?}");
        }
        assert!(!is_digit('a') && !is_digit('O'));
    }

    #[test]
    fn groups_are_of_four() {
        for (digits, text) in [("", ""), ("7KQ2", "7KQ2"), ("7KQ2M9XD", "7KQ2-M9XD"), ("7KQ2M9XDA", "7KQ2-M9XD-A")] {
            assert_eq!(grouped(digits), text);
        }
    }
}

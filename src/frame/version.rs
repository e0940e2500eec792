/// A client's version: numbers with dots; what follows the last number is ignored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(Vec<u64>);

impl Version {
    /// Reads `1`, `1.2`, `1.2.3-beta` and the like; trailing zeros do not count.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text.find(|letter: char| letter != '.' && !letter.is_ascii_digit()).unwrap_or(text.len());
        let (numbers, rest) = text.split_at(end);
        if !rest.is_empty() && !rest.starts_with(['-', '+', ' ']) {
            return None;
        }
        let mut parts = numbers.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u64>>>()?;
        while parts.last() == Some(&0) {
            parts.pop();
        }
        Some(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_as_numbers() {
        let version = |text| Version::parse(text).unwrap();
        assert!(version("1.10") > version("1.9.9"));
        assert!(version("2") > version("1.99"));
        assert_eq!(version("1.2"), version("1.2.0"));
        assert_eq!(version("1.2.3-beta"), version("1.2.3"));
        for bad in ["", "x", "1.", ".1", "1.x", "1,2", "99999999999999999999"] {
            assert_eq!(Version::parse(bad), None, "{bad}");
        }
    }
}

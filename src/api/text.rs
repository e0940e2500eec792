//! How much is kept of texts that others choose.

/// Most characters that are kept of a version or a platform.
pub const VERSION_MAX: usize = 64;

/// A version or a platform as it is kept.
pub fn kept_version(text: &str) -> String {
    text.chars().take(VERSION_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_kept_to_its_limit_in_characters() {
        assert_eq!(kept_version("1.2.0"), "1.2.0");
        assert_eq!(kept_version(&"é".repeat(VERSION_MAX + 1)), "é".repeat(VERSION_MAX));
    }
}

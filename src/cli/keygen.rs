use super::{Failure, say};
use crate::digest::{fresh_key, fresh_path, fresh_token};

/// Prints fresh keys as lines of a `.env` file.
pub(super) fn run() -> Result<(), Failure> {
    say(format_args!("HTTVPS_CONTROL__SIGNING_KEY={}", fresh_key().map_err(Failure::runtime)?));
    say(format_args!("HTTVPS_CONTROL__ENCRYPTION_KEY={}", fresh_key().map_err(Failure::runtime)?));
    say(format_args!("HTTVPS_CONTROL__BOOTSTRAP_KEY={}", fresh_token().map_err(Failure::runtime)?));
    say(format_args!("HTTVPS_TUNNEL__PATH={}", fresh_path().map_err(Failure::runtime)?));
    Ok(())
}

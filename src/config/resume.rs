use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

use super::{Invalid, Section, key};

/// `[resume]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// How long a session whose connection was lost is held; zero resumes none.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Sessions held at once; the oldest makes room.
    pub max_held: usize,
    /// What all sessions keep of what they have sent, until it is taken.
    pub memory: ByteSize,
    /// The same of one session.
    pub session_memory: ByteSize,
}

impl Section for Resume {
    const NAME: &'static str = "resume";

    fn validate(&self) -> Result<(), Invalid> {
        if self.hold > Duration::from_mins(10) {
            return Err(Invalid::new(key!(Self, hold), "must be at most 10m"));
        }
        if self.max_held == 0 {
            return Err(Invalid::new(key!(Self, max_held), "must be at least 1; hold = \"0s\" resumes no session"));
        }
        if self.session_memory > self.memory {
            return Err(Invalid::new(key!(Self, session_memory), "must not be more than memory"));
        }
        Ok(())
    }
}

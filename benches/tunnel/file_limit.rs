use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit of open files, which child processes inherit, and warns about `measures` that need more.
pub(crate) fn raise(needed: u64, measures: &str) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        eprintln!("the limit of open files stays as it is: {error}");
    }
    if getrlimit(Resource::Nofile).current.is_some_and(|files| files < needed) {
        eprintln!("fewer than {needed} open files are allowed: {measures} may fail");
    }
}

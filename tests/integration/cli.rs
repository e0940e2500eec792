//! The command line: the `admin` command, startup errors, the process's environment, the demo.

mod admin;
mod demo;
mod process_environment;
mod startup_errors;
mod terminal;

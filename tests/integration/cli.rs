//! The command line: the `admin` command and its tables, startup errors, the process's environment, the demo.

mod admin;
mod demo;
mod process_environment;
mod startup_errors;
mod tables;
mod terminal;

//! The command line: what it refuses, what it survives, the demo.

mod admin;
mod demo;
mod process_environment;
mod startup_errors;

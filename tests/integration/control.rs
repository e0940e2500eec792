//! The control plane: its REST API and its rules.

mod billing;
mod client_configuration;
mod deletion;
mod diagnosis;
mod enrollment;
mod replicas;
mod rest;
mod session_slots;
mod time;
mod untrusted_input;

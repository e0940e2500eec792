//! One gateway: certificates, enrollment, portal, restarts, upgrades, and the control plane out of reach.

mod acme;
mod certificates;
mod control_outage;
mod enrollment;
mod instances;
mod portal;
mod restart;
mod takeover;
mod tls;

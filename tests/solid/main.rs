//! The thin path made solid: egress, kernel mode, restarts and the life of services, under load, on the real binaries.

mod dns;
mod egress;
mod explain;
mod flips;
mod held;
mod host;
mod inbound;
mod kernel;
mod life;
mod near;
mod node;
mod restarts;
mod status;

use mesh_tests::suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    suite::run(&[
        egress::CASES,
        kernel::CASES,
        explain::CASES,
        flips::CASES,
        host::CASES,
        life::CASES,
        near::CASES,
        inbound::CASES,
        status::CASES,
        restarts::CASES,
        dns::CASES,
    ])
}

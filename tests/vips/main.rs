//! VIPs for every process of the nodes, on the real binaries: which way whoever dials, to whatever network, and what a node is without the mesh.

mod away;
mod fleet;
mod l4lb;
mod life;
mod matrix;
mod reboot;
mod seen;

use mesh_tests::suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    suite::run(&[matrix::CASES, seen::CASES, l4lb::CASES, life::CASES, reboot::CASES, away::CASES])
}

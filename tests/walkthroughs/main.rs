//! The walkthroughs of docs/walkthroughs.md, step by step, by kubectl and curl through the transparent path. Walkthrough 0 is the shop
//! itself: suite `bookinfo`.

mod credentials;
mod edge;
mod exported;
mod kit;
mod kubectl;
mod more;
mod one;
mod one_balance;
mod open;
mod scopes;
mod shares;
mod three_four;
mod two;

use mesh_tests::suite;
use std::process::ExitCode;

fn main() -> ExitCode {
    suite::run(&[
        one::CASES,
        one_balance::CASES,
        open::CASES,
        two::CASES,
        three_four::CASES,
        edge::CASES,
        credentials::CASES,
        exported::CASES,
        kubectl::CASES,
        more::CASES,
        scopes::CASES,
        shares::CASES,
    ])
}

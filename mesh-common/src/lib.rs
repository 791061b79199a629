//! The vocabulary that every part of the mesh shares.
//!
//! Owns the kernel ABI ([`abi`]), the L4 decision ([`decide`]), the names of all refusals ([`reason`]), the port table ([`ports`])
//! and, with feature `std`, the platform's VIP names and addresses ([`vip`]), the socket broker's messages ([`broker`]), the labels that ask for
//! captured ports ([`inbound`]) and the form of the page for Prometheus ([`exposition`]).
//!
//! The crate is linked into the eBPF programs, so it is `no_std`, allocates nothing without `std` and never does I/O.

#![cfg_attr(not(any(test, feature = "std", feature = "user")), no_std)]
#![warn(missing_docs)]

pub mod abi;
#[cfg(feature = "std")]
pub mod broker;
pub mod decide;
#[cfg(feature = "std")]
pub mod exposition;
#[cfg(feature = "std")]
pub mod inbound;
pub mod ports;
pub mod reason;
#[cfg(feature = "std")]
pub mod vip;

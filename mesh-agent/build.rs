//! Embeds the eBPF object that `cargo xtask build-ebpf` has built. Without one the crate builds and its unit tests run, and the binary
//! says at start what is missing: nobody needs an eBPF toolchain for the rest of the workspace.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let named = env::var_os("MESH_EBPF_OBJECT").map(PathBuf::from);
    let object = named.clone().unwrap_or_else(|| manifest.join("../target/ebpf/bpfel-unknown-none/release/mesh-ebpf"));
    // A path that does not exist makes cargo run this script each time, which is wanted: it may exist the next time.
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = match fs::read(&object) {
        Ok(bytes) => bytes,
        Err(error) if named.is_some() => panic!("MESH_EBPF_OBJECT names {}: {error}", object.display()),
        Err(_) => Vec::new(),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("mesh-ebpf.o");
    fs::write(out, bytes).expect("OUT_DIR is writable");
}

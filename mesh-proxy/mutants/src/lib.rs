//! `mutants!()`: the source text of mesh-proxy's matcher as modules `m0` (as it is), `m1`, `m2`, … (each with one mistake), and the
//! list `MUTANTS` of the latter. Called by the test `differential`, which must tell each of them from Envoy. Never a part of the proxy.
//!
//! The text is that of the files themselves, so what is shown to be caught is a mistake in the code that runs, and not one in a copy that
//! has aged. Where a mistake's text no longer occurs exactly once, nothing compiles until the list has followed the code.

mod mistakes;

use mistakes::{MISTAKES, Mistake};
use proc_macro::TokenStream;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The modules that decide which route a request takes; files that they declare come with them.
const MODULES: [&str; 2] = ["matching", "route"];

/// See the crate. Stands in a module `crate::mutants::planted`. Each mutant also gets what `glue!()` expands to, the caller's way to reach into
/// it, which has a function `routes`.
#[proc_macro]
pub fn mutants(_: TokenStream) -> TokenStream {
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/core");
    let mut code = String::new();
    let mut read = Vec::new();
    for (number, mistake) in std::iter::once(None).chain(MISTAKES.iter().map(Some)).enumerate() {
        let mut source = Source { core: core.clone(), mistake, made: 0, read: Vec::new() };
        let modules = MODULES.map(|name| source.module(name, Path::new("")));
        if let Some(mistake) = mistake {
            let (name, text, made) = (mistake.name, mistake.text, source.made);
            assert!(
                made == 1,
                "mistake {name:?}: its text occurs {made} times in core/{}, and should once: {text}",
                mistake.file
            );
        }
        // What `crate` was: the matcher is here, everything else is mesh-proxy's.
        let mut text = modules.concat().replace("crate::", "::mesh_proxy::");
        for name in MODULES {
            text = text.replace(&format!("::mesh_proxy::core::{name}"), &format!("crate::mutants::planted::m{number}::{name}"));
        }
        write!(code, "pub mod m{number} {{ {text} glue!(); }}").expect("a String takes everything");
        read.extend(source.read);
    }
    let named = |(number, mistake): (usize, &Mistake)| format!("({:?}, m{}::routes),", mistake.name, number + 1);
    let named: String = MISTAKES.iter().enumerate().map(named).collect();
    write!(code, "pub const MUTANTS: [(&str, super::Routes); {}] = [{named}];", MISTAKES.len())
        .expect("a String takes everything");
    // So that the compiler knows what it was made of.
    read.sort();
    read.dedup();
    for path in read {
        write!(code, "const _: &str = include_str!({path:?});").expect("a String takes everything");
    }
    code.parse().expect("the matcher's own text is Rust")
}

/// The text of one mutant, being put together.
struct Source<'a> {
    core: PathBuf,
    mistake: Option<&'a Mistake>,
    /// How often the mistake's text was found.
    made: usize,
    read: Vec<PathBuf>,
}

impl Source<'_> {
    /// A module with all that it declares, without its tests.
    fn module(&mut self, name: &str, parent: &Path) -> String {
        let file = parent.join(format!("{name}.rs"));
        let path = self.core.join(&file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self.read.push(path);
        let mut text = without_tests(&text);
        if let Some(mistake) = self.mistake.filter(|mistake| Path::new(mistake.file) == file) {
            self.made += text.matches(mistake.text).count();
            text = text.replace(mistake.text, mistake.instead);
        }
        let depth = parent.components().count();
        let mut out = String::new();
        for line in text.lines() {
            match declared(line) {
                Some(child) => out += &self.module(child, &parent.join(name)),
                None => out += &abroad(line, depth),
            }
            out.push('\n');
        }
        let public = if depth == 0 { "pub " } else { "" };
        format!("{public}mod {name} {{ {out} }}\n")
    }
}

/// `mod x;`: the name.
fn declared(line: &str) -> Option<&str> {
    let line = line.trim();
    line.strip_prefix("pub ").unwrap_or(line).strip_prefix("mod ")?.strip_suffix(';')
}

/// A line of a module right under `core`: its siblings are mesh-proxy's, except those that are here.
fn abroad(line: &str, depth: usize) -> String {
    let here = MODULES.iter().any(|name| line.contains(&format!("super::{name}")));
    // Documentation is of no use here, and may not be where a module is spelled out.
    if line.trim_start().starts_with("//") {
        return String::new();
    }
    if depth == 0 && !here { line.replace("use super::", "use ::mesh_proxy::core::") } else { line.to_owned() }
}

/// Up to `#[cfg(test)]` in front of the tests at the end; in front of a declaration, only that.
fn without_tests(text: &str) -> String {
    let declared = text.replace("#[cfg(test)]\nmod tests;\n", "");
    declared.split("\n#[cfg(test)]\n").next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn core() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../src/core")
    }

    #[test]
    fn each_mistake_can_be_made_in_the_code_as_it_is() {
        assert!(MISTAKES.len() >= 10);
        for mistake in &MISTAKES {
            let mut source = Source { core: core(), mistake: Some(mistake), made: 0, read: Vec::new() };
            let with = MODULES.map(|name| source.module(name, Path::new("")));
            assert_eq!(source.made, 1, "{}: its text occurs {} times in core/{}", mistake.name, source.made, mistake.file);
            let mut plain = Source { core: core(), mistake: None, made: 0, read: Vec::new() };
            assert_ne!(with, MODULES.map(|name| plain.module(name, Path::new(""))), "{}", mistake.name);
        }
    }

    #[test]
    fn a_module_comes_without_its_tests_and_with_its_files() {
        let mut source = Source { core: core(), mistake: None, made: 0, read: Vec::new() };
        let route = source.module("route", Path::new(""));
        assert!(route.contains("mod host {") && !route.contains("tests") && route.contains("use super::matching::"));
        assert!(route.contains("use ::mesh_proxy::core::rewrite::") && !route.contains("use super::rewrite"));
        assert_eq!(declared("mod host;"), Some("host"));
        assert_eq!(declared("mod tests {"), None);
    }
}

//! Image names to local programs: copies of the binaries without debug information, in a directory that every user may enter
//! (mesh-proxy runs as nobody, and a checkout may lie in a home directory that nobody else may enter).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::state::State;
use crate::cargo::{self, read};
use crate::ui::step;

/// Binaries of the workspace.
pub(crate) const PROGRAMS: [&str; 6] = ["bookinfo", "marathon-sim", "mesh-agent", "mesh-control", "mesh-proxy", "walkthrough"];
/// Without the shop.
pub(crate) const MESH: [&str; 4] = ["marathon-sim", "mesh-agent", "mesh-control", "mesh-proxy"];
/// Placed beside the programs.
pub(crate) const ZIPKIN_JAR: &str = "zipkin.jar";
const SERVICES: [(&str, &str); 6] =
    [("details", "v1"), ("ratings", "v1"), ("productpage", "v1"), ("reviews", "v1"), ("reviews", "v2"), ("reviews", "v3")];

pub(crate) struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    pub(crate) fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }

    /// Not in the state directory: Debian mounts /run without the right to execute.
    pub(crate) fn of(state: &State) -> Self {
        let name = state.dir.to_string_lossy().trim_matches('/').replace('/', "-");
        Self { dir: Path::new("/var/cache/mesh").join(name) }
    }

    pub(crate) fn remove(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Programs of the build profile `profile`.
pub(crate) fn place(state: &State, profile: &str, programs: &[&str]) -> Result<Binaries> {
    let binaries = Binaries::of(state);
    if state.exists() && !state.is_ours() {
        bail!("{} is not a directory of ours; choose another with --state", state.dir.display());
    }
    std::fs::create_dir_all(&state.dir)?;
    std::fs::create_dir_all(&binaries.dir)?;
    step("placing the binaries where every user may read them", || {
        programs.iter().try_for_each(|program| copy(&cargo::target().join(profile).join(program), &binaries.path(program)))
    })?;
    std::fs::write(state.join("images.json"), serde_json::to_vec_pretty(&images(&binaries.dir))?)?;
    Ok(binaries)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let built =
        std::fs::metadata(from).with_context(|| format!("cargo ended well, but {} is missing", from.display()))?.modified()?;
    if std::fs::metadata(to).and_then(|copy| copy.modified()).is_ok_and(|copied| copied > built) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    read(Command::new("strip").args(["--strip-debug", "-o"]).args([&fresh, from]))?;
    Ok(std::fs::rename(fresh, to)?)
}

/// The file that `marathon-sim run --images` reads.
fn images(dir: &Path) -> Value {
    let mut map = serde_json::Map::new();
    for (service, version) in SERVICES {
        let image = format!("istio/examples-bookinfo-{service}-{version}:1.8.0");
        map.insert(image, json!([dir.join("bookinfo"), service, "--version", version, "--port", "9080"]));
    }
    for program in ["mesh-agent", "mesh-control", "mesh-proxy", "walkthrough"] {
        map.insert(format!("mesh/{program}"), json!([dir.join(program)]));
    }
    // As the image's own start script does.
    let java = format!("exec java $JAVA_OPTS -jar {}", dir.join(ZIPKIN_JAR).display());
    map.insert("openzipkin/zipkin".to_owned(), json!(["/bin/sh", "-c", java]));
    map.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn posted(folder: &str) -> Vec<Value> {
        let files = std::fs::read_dir(cargo::root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
        let json = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
        json.map(|path| serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()).collect()
    }

    #[test]
    fn every_image_that_is_posted_has_a_program() {
        let images = images(Path::new("/bin"));
        // A pod with a command of its own needs no program of ours.
        let ours: Vec<Value> = posted("bookinfo").into_iter().filter(|pod| pod["containers"][0]["exec"].is_null()).collect();
        for pod in &ours {
            assert!(images[pod["containers"][0]["image"]["id"].as_str().unwrap()].is_array(), "{pod}");
            let version = pod["labels"]["version"].as_str().unwrap();
            assert_eq!(images[pod["containers"][0]["image"]["id"].as_str().unwrap()][3], version);
        }
        for app in posted("install") {
            let image = app["container"]["docker"]["image"].as_str().unwrap();
            assert!(images[image.split(':').next().unwrap()].is_array(), "{app}");
        }
        assert_eq!((ours.len(), posted("install").len()), (6, 5));
    }

    #[test]
    fn only_the_agent_is_privileged_and_the_proxies_have_nothing() {
        for app in posted("install") {
            let docker = &app["container"]["docker"];
            assert_eq!(docker["privileged"] == true, app["id"] == "/mesh-agent");
            if docker["image"] == "mesh/mesh-proxy" {
                let parameters = docker["parameters"].to_string();
                for word in ["65534:65534", "cap-drop", "ALL", "no-new-privileges"] {
                    assert!(parameters.contains(word), "{word}");
                }
                assert!(!parameters.contains("cap-add"));
            }
        }
    }
}

//! The images file: which local program stands for which container image.
//!
//! ```json
//! {"mesh/mesh-agent": ["/path/mesh-agent"],
//!  "istio/examples-bookinfo-reviews-v2": ["/path/bookinfo", "reviews", "--version", "v2"]}
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

use crate::core::spec::{Command, Container};

#[derive(Debug, Default)]
pub(crate) struct Images(BTreeMap<String, Vec<String>>);

impl Images {
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read the images file {}", path.display()))?;
        let map = serde_json::from_str(&text).with_context(|| {
            format!(
                "{}: an images file is a JSON object of image name to argv, {{\"mesh/mesh-agent\": [\"/path/mesh-agent\"]}}",
                path.display()
            )
        })?;
        Ok(Self(map))
    }

    /// With tag, without tag, without `docker.io/`.
    fn argv(&self, image: &str) -> Option<&Vec<String>> {
        let image = image.trim_start_matches("docker.io/");
        let image = image.split_once('@').map_or(image, |(name, _)| name);
        let untagged = match image.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => image,
        };
        self.0.get(image).or_else(|| self.0.get(untagged))
    }

    /// What to execute for a container.
    pub(crate) fn resolve(&self, container: &Container) -> Result<Vec<String>, String> {
        let image = || {
            let name = container.image.as_deref().unwrap_or_default();
            self.argv(name).cloned().ok_or_else(|| format!("image '{name}' is not in the images file"))
        };
        match &container.command {
            Command::Shell(line) => Ok(vec!["/bin/sh".into(), "-c".into(), line.clone()]),
            Command::Argv(argv) => Ok(argv.clone()),
            Command::Image => image(),
            Command::Args(args) => Ok(image()?.into_iter().chain(args.iter().cloned()).collect()),
        }
    }

    /// Directory of the image's program: goes on the PATH of its containers, as if it were in their image.
    pub(crate) fn directory(&self, container: &Container) -> Option<String> {
        let program = self.argv(container.image.as_deref()?)?.first()?;
        Path::new(program).parent().filter(|p| p.is_absolute()).map(|p| p.display().to_string())
    }

    pub(crate) fn programs(&self) -> impl Iterator<Item = &Path> {
        self.0.values().filter_map(|argv| argv.first()).map(Path::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_arguments() {
        let images =
            Images([("a/b".to_owned(), vec!["/bin/x".to_owned()]), ("a/b:2".to_owned(), vec!["/bin/y".to_owned()])].into());
        let run =
            |image: &str, command| images.resolve(&Container { image: Some(image.into()), command, ..Container::default() });
        assert_eq!(run("a/b:1", Command::Image), Ok(vec!["/bin/x".to_owned()]));
        assert_eq!(run("docker.io/a/b:2", Command::Args(vec!["-v".into()])), Ok(vec!["/bin/y".to_owned(), "-v".into()]));
        assert_eq!(run("nope", Command::Shell("true".into())).unwrap()[0], "/bin/sh");
        let redis = vec!["/usr/bin/redis-server".to_owned()];
        assert_eq!(run("redis:7", Command::Argv(redis.clone())), Ok(redis), "its own command needs no entry in the file");
        assert!(run("host:5000/nope", Command::Image).is_err());
    }
}

//! `mesh-control validate FILE...`: what the API would say of manifests, without a control plane. What is wrong decides `api::offline`.

use crate::api::offline::{Verdict, verdict};
use anyhow::{Context, Result};
use clap::Args;
use serde::Deserialize;
use serde_json::Value;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Args, Debug)]
pub(crate) struct ValidateArgs {
    /// Manifests, YAML or JSON, of any number of objects each; `-` is standard input
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Namespace of objects that name none
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Fail for warnings too: for fields that would have no effect
    #[arg(long)]
    strict: bool,
}

/// Prints a line per problem; fails if an object would be refused.
pub(crate) fn main(args: &ValidateArgs) -> Result<ExitCode> {
    let (mut text, mut objects, mut refused, mut warned) = (String::new(), 0, 0, 0);
    for file in &args.files {
        for verdict in of_file(&read(file)?, &args.namespace) {
            objects += 1;
            let Verdict { object, said } = verdict;
            let at = format!("{}: {object}", file.display());
            // Writing into a String cannot fail.
            match said {
                Err(why) => {
                    refused += 1;
                    let _ = writeln!(text, "{at}: {why}");
                }
                Ok(warnings) => {
                    warned += warnings.len();
                    for warning in &warnings {
                        let _ = writeln!(text, "{at}: Warning: {warning}");
                    }
                }
            }
        }
    }
    let _ = writeln!(text, "{objects} objects, {refused} refused, {warned} warnings");
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(if refused > 0 || (args.strict && warned > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn read(file: &Path) -> Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
    } else {
        text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    }
    Ok(text)
}

/// The objects of a manifest, those of lists too. What cannot be read is an object that is refused, and ends the file.
fn of_file(text: &str, namespace: &str) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        // By way of YAML's own values, which refuse a key that is there twice.
        let value = serde_yaml_ng::Value::deserialize(document).map_err(|error| error.to_string());
        match value.and_then(|value| serde_json::to_value(value).map_err(|error| error.to_string())) {
            Ok(Value::Null) => {}
            Ok(list) if list["kind"] == "List" => {
                verdicts.extend(list["items"].as_array().into_iter().flatten().map(|item| verdict(item, namespace)));
            }
            Ok(body) => verdicts.push(verdict(&body, namespace)),
            Err(why) => {
                verdicts.push(Verdict { object: "a document".to_owned(), said: Err(format!("it is no YAML: {why}")) });
                break;
            }
        }
    }
    verdicts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_lists_and_what_is_no_yaml() {
        let rule = "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: a}, spec: {host: a}}";
        let said = |text: &str| -> Vec<bool> { of_file(text, "default").iter().map(|verdict| verdict.said.is_ok()).collect() };
        assert_eq!(said(&format!("---\n{rule}\n---\n---\n{rule}\n")), [true, true]);
        assert_eq!(said(&format!("{{apiVersion: v1, kind: List, items: [{rule}, {{kind: X}}]}}")), [true, false]);
        assert_eq!(said("a: 1\na: 2\n"), [false], "a key twice");
        assert_eq!(said("a: [\n"), [false]);
        assert_eq!(said("# nothing\n"), Vec::<bool>::new());
    }
}

//! `mesh-agent cni`: the plugin that Mesos calls when a container's network is there and nothing runs in it. It asks the node's agent to
//! enrol the container, and returns when that is done: the first instruction finds the mesh in force. Where the agent cannot, the
//! container does not start.

use crate::core::cni::{self, Answer, Call, Failure, Network, Question, Verb};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Where agents listen for plugins.
pub const SOCKET: &str = "/run/mesh/cni.sock";
/// Longer than an agent takes under any load; Mesos would wait for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what environment and standard input say.
#[must_use]
pub fn main() -> ExitCode {
    let mut stdin = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut stdin);
    let done = cni::call(|name| std::env::var(name).ok(), &stdin, SOCKET).and_then(|call| match call {
        Call::Version => Ok(cni::versions()),
        Call::Network(network) => obey(&network),
    });
    let (text, code) = match done {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(failure) => (failure.print(), ExitCode::FAILURE),
    };
    let _ = writeln!(std::io::stdout(), "{text}");
    code
}

fn obey(network: &Network) -> Result<String, Failure> {
    match network.verb {
        Verb::Add => {
            let result = match &network.delegate {
                Some(conf) => delegate("ADD", conf)?,
                None => network.previous.clone().unwrap_or_default(),
            };
            match ask(network, cni::addresses(&result)) {
                Ok(Answer::Done | Answer::NotWanted) => Ok(result.to_string()),
                refused => {
                    // What this call has made, it takes away.
                    if let Some(conf) = &network.delegate {
                        let _ = delegate("DEL", conf);
                    }
                    Err(failed(refused))
                }
            }
        }
        Verb::Del => {
            // A container ends whether or not an agent runs; one that starts later finds its namespace gone.
            let _ = ask(network, Vec::new());
            network.delegate.as_ref().map_or(Ok(String::new()), |conf| delegate("DEL", conf).map(|_| String::new()))
        }
        Verb::Check => {
            if let Some(conf) = &network.delegate {
                delegate("CHECK", conf)?;
            }
            match ask(network, network.previous.as_ref().map(cni::addresses).unwrap_or_default()) {
                Ok(Answer::Done | Answer::NotWanted) => Ok(String::new()),
                refused => Err(failed(refused)),
            }
        }
    }
}

fn failed(answer: Result<Answer, String>) -> Failure {
    Failure::again(match answer {
        Ok(Answer::Failed(reason)) | Err(reason) => reason,
        Ok(Answer::Done | Answer::NotWanted) => "nothing has failed".to_owned(),
    })
}

fn ask(network: &Network, addresses: Vec<std::net::IpAddr>) -> Result<Answer, String> {
    let (container, netns) = (network.container.clone(), network.netns.clone());
    say(&network.agent, &Question { verb: network.verb, container, netns, addresses })
        .map_err(|error| format!("mesh-agent cannot be asked at {}: {error}", network.agent.display()))
}

fn say(socket: &Path, question: &Question) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    writeln!(stream, "{}", serde_json::to_string(question)?)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

/// Calls the plugin that makes the network, as the runtime would have. The result of ADD; nothing otherwise.
fn delegate(command: &str, conf: &serde_json::Value) -> Result<serde_json::Value, Failure> {
    let kind = conf["type"].as_str().unwrap_or_default();
    let failure = |text: String| Failure::again(format!("the delegate {kind}: {text}"));
    let path = std::env::var("CNI_PATH").unwrap_or_default();
    let mut places = path.split(':').map(|dir| Path::new(dir).join(kind));
    let program = places.find(|program| program.is_file()).ok_or_else(|| failure(format!("is not in CNI_PATH ({path})")))?;
    let mut command_line = Command::new(program);
    command_line.env("CNI_COMMAND", command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = command_line.spawn().map_err(|error| failure(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why by its exit code.
        let _ = stdin.write_all(conf.to_string().as_bytes());
    }
    let output = child.wait_with_output().map_err(|error| failure(error.to_string()))?;
    if !output.status.success() {
        return Err(failure(String::from_utf8_lossy(&output.stdout).trim().to_owned()));
    }
    if command != "ADD" {
        return Ok(serde_json::Value::Null);
    }
    serde_json::from_slice(&output.stdout).map_err(|error| failure(format!("its result: {error}")))
}

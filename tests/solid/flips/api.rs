//! The Kubernetes-style API over one kept connection, through `kubectl proxy`, which brings TLS and token: a kubectl for each of a thousand
//! changes would take most of the suite's time.

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::world::World;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

const COLLECTION: &str = "/apis/networking.istio.io/v1alpha3/namespaces/default/virtualservices";

pub(super) struct Api {
    proxy: Child,
    stream: BufReader<TcpStream>,
}

impl Api {
    pub(super) fn open(world: &World) -> Result<Self> {
        let mut proxy = world.kubectl_command(&["proxy", "--port", "0"])?.spawn()?;
        let mut line = String::new();
        BufReader::new(proxy.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let connected = match line.trim().rsplit_once(' ') {
            Some((_, address)) => TcpStream::connect(address).with_context(|| format!("connecting to {address}")),
            None => bail!("kubectl proxy said {line:?}"),
        };
        let stream = match connected {
            Ok(stream) => stream,
            Err(error) => {
                let _ = (proxy.kill(), proxy.wait());
                return Err(error);
            }
        };
        stream.set_nodelay(true)?;
        Ok(Self { proxy, stream: BufReader::new(stream) })
    }

    pub(super) fn create(&mut self, rule: &Value) -> Result<()> {
        let (code, said) = self.call("POST", COLLECTION, &rule.to_string())?;
        ensure!(code == 201, "creating: {code} {said}");
        Ok(())
    }

    pub(super) fn delete(&mut self, name: &str) -> Result<()> {
        let (code, said) = self.call("DELETE", &format!("{COLLECTION}/{name}"), "")?;
        ensure!(code == 200, "deleting: {code} {said}");
        Ok(())
    }

    fn call(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        write!(self.stream.get_mut(), "{head}content-length: {}\r\n\r\n{body}", body.len())?;
        let (mut code, mut length, mut first) = (0, None, true);
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "kubectl proxy closed the connection");
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if std::mem::take(&mut first) {
                code = line.split(' ').nth(1).unwrap_or_default().parse()?;
            }
            length = line.strip_prefix("content-length:").map(str::trim).map(str::parse).transpose()?.or(length);
        }
        let mut body = vec![0; length.context("an answer without a length")?];
        self.stream.read_exact(&mut body)?;
        Ok((code, String::from_utf8_lossy(&body).into_owned()))
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = (self.proxy.kill(), self.proxy.wait());
    }
}

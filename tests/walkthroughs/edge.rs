//! HTTPS at a Gateway: a certificate for each host, the way there from plain HTTP, and a renewal that no connection notices.

use crate::kit::{SOON, apply, delete, outside, pods};
use anyhow::{Context, Result, bail, ensure};
use mesh_tests::eventually;
use mesh_tests::suite::Case;
use mesh_tests::world::World;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

pub(crate) const CASES: &[Case] = &[
    ("edge::HTTPS by kubectl's Secrets: a certificate for each server name, and http is sent there", certificates),
    ("edge::a certificate is renewed under load, and no connection or request is lost", renewed),
];

const SHOP: &str = "shop.example.com";
const MAIL: &str = "mail.example.com";
/// Connections that are kept over the renewal, and what each asks for before and after it.
const KEPT: usize = 4;
const ENOUGH: u32 = 25;

/// Certificates as files, as kubectl and curl want them; gone with the test.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `NAME.crt`, which trusts itself, and `NAME.key`.
    fn make(&self, name: &str, host: &str) -> Result<PathBuf> {
        let made = rcgen::generate_simple_self_signed([host.to_owned()])?;
        std::fs::write(self.path(&format!("{name}.key")), made.signing_key.serialize_pem())?;
        let path = self.path(&format!("{name}.crt"));
        std::fs::write(&path, made.cert.pem())?;
        Ok(path)
    }

    /// `kubectl create secret tls`, whose output is applied: so it makes a Secret, and renews one that is there.
    fn apply(&self, world: &World, secret: &str, name: &str) -> Result<()> {
        let (certificate, key) = (self.path(&format!("{name}.crt")), self.path(&format!("{name}.key")));
        let (certificate, key) = (format!("--cert={}", certificate.display()), format!("--key={}", key.display()));
        let made = ["create", "secret", "tls", secret, &certificate, &key, "--dry-run=client", "-o", "yaml"];
        let made = world.kubectl(&made)?;
        let applied = world.try_kubectl(&["apply", "-f", "-"], &made)?;
        ensure!(applied.status.success(), "kubectl apply of {secret}: {}", String::from_utf8_lossy(&applied.stderr));
        Ok(())
    }
}

/// GET from outside by HTTPS, with trust in these certificates only.
fn secured(world: &World, node: u8, host: &str, trusted: &Path) -> Result<(u16, String)> {
    let (resolve, url) = (format!("{host}:443:198.18.0.1{node}"), format!("https://{host}/"));
    let trusted = trusted.to_string_lossy();
    let curl = ["curl", "-s", "-S", "-m", "10", "-w", "\n%{http_code}", "--cacert", &trusted, "--resolve", &resolve, &url];
    let output = world.in_namespace("outside", &curl)?.output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    let (body, status) = text.rsplit_once('\n').context("curl said nothing")?;
    Ok((status.trim().parse()?, body.to_owned()))
}

/// Both hosts are served, each by its own certificate and its own version.
fn opened(world: &World, files: &Certificates) -> Result<(PathBuf, PathBuf)> {
    pods(world, &["1/myweb-v1", "1/myweb-v2"])?;
    let (shop, mail) = (files.make("shop", SHOP)?, files.make("mail", MAIL)?);
    files.apply(world, "shop-credential", "shop")?;
    files.apply(world, "mail-credential", "mail")?;
    apply(world, "more/https-gateway")?;
    for node in [1, 2] {
        for (host, trusted, version) in [(SHOP, &shop, "v1"), (MAIL, &mail, "v2")] {
            eventually(&format!("{host} by HTTPS at node {node}"), SOON, || {
                let (status, body) = secured(world, node, host, trusted)?;
                ensure!(status == 200 && body.contains(&format!("version: {version}")), "{status} {body}");
                Ok(())
            })?;
        }
    }
    Ok((shop, mail))
}

fn closed(world: &World) -> Result<()> {
    delete(world, "more/https-gateway")?;
    world.kubectl(&["delete", "secret", "shop-credential", "mail-credential"]).map(drop)
}

fn certificates(world: &mut World) -> Result<()> {
    let files = Certificates::new()?;
    let (shop, mail) = opened(world, &files)?;
    // curl compares name and certificate, so the other's does not do; and there is none for a third.
    let both = files.path("both.crt");
    std::fs::write(&both, [std::fs::read(&shop)?, std::fs::read(&mail)?].concat())?;
    for (host, trusted) in [(SHOP, &mail), (MAIL, &shop), ("other.example.com", &both)] {
        let answer = secured(world, 1, host, trusted);
        ensure!(answer.is_err(), "{host}: {answer:?}");
    }
    for (host, path) in [(SHOP, "/"), (MAIL, "/a/b?c=d")] {
        let location = redirected(world, host, path)?;
        ensure!(location == format!("https://{host}{path}"), "{location}");
    }
    let (status, _) = outside(world, 1, "other.example.com", "/")?;
    ensure!(status == 404, "a host of nobody: {status}");
    closed(world)?;
    eventually("HTTPS is closed", SOON, || {
        let answer = secured(world, 1, SHOP, &shop);
        ensure!(answer.is_err(), "{answer:?}");
        Ok(())
    })
}

/// Where plain HTTP is sent to.
fn redirected(world: &World, host: &str, path: &str) -> Result<String> {
    let (header, url) = (format!("host: {host}"), format!("http://198.18.0.11{path}"));
    let curl = ["curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "-H", &header, &url];
    let said = String::from_utf8(world.in_namespace("outside", &curl)?.output()?.stdout)?;
    let (status, location) = said.split_once(' ').context("curl said nothing")?;
    ensure!(status == "301", "{said}");
    Ok(location.to_owned())
}

fn renewed(world: &mut World) -> Result<()> {
    let files = Certificates::new()?;
    let (old, _) = opened(world, &files)?;
    let new = files.make("shop-renewed", SHOP)?;
    let either = files.path("either.crt");
    std::fs::write(&either, [std::fs::read(&old)?, std::fs::read(&new)?].concat())?;
    let kept: Vec<Kept> = (0..KEPT).map(|_| Kept::open(world, SHOP, &old)).collect::<Result<_>>()?;
    let asked: Vec<AtomicU32> = (0..=KEPT).map(|_| AtomicU32::new(0)).collect();
    let stop = AtomicBool::new(false);
    let (world, stop, asked) = (&*world, &stop, &asked);
    let each_asks = |more: &[u32]| {
        eventually("each connection has asked on", Duration::from_secs(60), || {
            let now = counts(asked);
            ensure!(now.iter().zip(more).all(|(now, more)| now >= more), "{now:?} of {more:?}");
            Ok(())
        })
    };
    std::thread::scope(|scope| -> Result<()> {
        let mut threads = Vec::new();
        for (mut connection, asked) in kept.into_iter().zip(asked) {
            threads.push(scope.spawn(move || repeat(stop, asked, || connection.get(SHOP))));
        }
        let fresh = || secured(world, 1, SHOP, &either).map(|(status, _)| status);
        threads.push(scope.spawn(move || repeat(stop, &asked[KEPT], fresh)));
        let outcome = each_asks(&[ENOUGH; KEPT]).and_then(|()| {
            files.apply(world, "shop-credential", "shop-renewed")?;
            eventually("new connections see the new certificate", SOON, || secured(world, 1, SHOP, &new))?;
            ensure!(secured(world, 1, SHOP, &old).is_err(), "the old certificate is still shown");
            // The connections of before go on, with what they agreed upon then.
            each_asks(&counts(asked)[..KEPT].iter().map(|asked| asked + ENOUGH).collect::<Vec<_>>())
        });
        stop.store(true, Ordering::Relaxed);
        let ended: Vec<Result<()>> =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("panicked"))).collect();
        // What a connection has met says more than that another waited for it.
        ended.into_iter().collect::<Result<()>>().and(outcome)
    })?;
    println!("requests on {KEPT} kept connections, and on new ones: {:?}", counts(asked));
    closed(world)
}

fn counts(asked: &[AtomicU32]) -> Vec<u32> {
    asked.iter().map(|asked| asked.load(Ordering::Relaxed)).collect()
}

/// Asks until it is stopped; every answer has to be good.
fn repeat(stop: &AtomicBool, asked: &AtomicU32, mut ask: impl FnMut() -> Result<u16>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let nth = asked.load(Ordering::Relaxed);
        let status = ask().with_context(|| format!("request {nth}"))?;
        ensure!(status == 200, "request {nth}: {status}");
        asked.store(nth + 1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// One connection over TLS from outside, by `openssl s_client`, which never makes it again.
struct Kept {
    client: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Kept {
    fn open(world: &World, host: &str, trusted: &Path) -> Result<Self> {
        let trusted = trusted.to_string_lossy();
        let to = ["openssl", "s_client", "-quiet", "-connect", "198.18.0.11:443", "-servername", host];
        let trust = ["-CAfile", &trusted, "-verify_return_error", "-verify_hostname", host];
        let mut client = world.in_namespace("outside", &[&to[..], &trust].concat())?;
        let mut client = client.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().context("openssl s_client")?;
        let (stdin, stdout) = (client.stdin.take().context("no stdin")?, client.stdout.take().context("no stdout")?);
        let mut kept = Self { client, stdin, stdout: BufReader::new(stdout) };
        let status = kept.get(host)?;
        ensure!(status == 200, "the first request: {status}");
        Ok(kept)
    }

    fn get(&mut self, host: &str) -> Result<u16> {
        write!(self.stdin, "GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")?;
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            ensure!(self.stdout.read_line(&mut line)? > 0, "the connection ended");
            let line = line.trim().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            status = status.or_else(|| line.split(' ').nth(1)?.parse().ok());
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            ensure!(line != "connection: close", "the gateway wants to close");
        }
        self.stdout.read_exact(&mut vec![0; length])?;
        status.context("no status")
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

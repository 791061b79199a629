//! `mesh-control init`: authority, server certificate, tokens and kubeconfig for a first installation.
//!
//! Run by a person, once. It never overwrites an existing authority: run again, it only writes the kubeconfig anew.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::auth::{ADMINS, NODES};

/// Make the authority, certificates, tokens and kubeconfig of a first installation
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct InitArgs {
    /// Directory to fill; made if absent
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Where kubectl finds the API, for the kubeconfig
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:32443")]
    pub(crate) api_server: String,
    /// Names and addresses of the server's certificate
    #[arg(long, value_name = "DNS-OR-IP", num_args = 1.., value_delimiter = ',')]
    pub(crate) san: Vec<String>,
}

/// Fills the directory, or rewrites the kubeconfig of one that is filled.
pub(crate) fn init(args: &InitArgs) -> anyhow::Result<()> {
    let server = args.api_server.trim_end_matches('/');
    let authority = server.strip_prefix("https://").context("--api-server must begin with https://")?;
    let plain = authority.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b));
    if authority.is_empty() || !plain {
        bail!("--api-server must be https://HOST:PORT, without path");
    }
    let out = &args.out;
    let control = out.join("control");
    fs::DirBuilder::new().recursive(true).mode(0o755).create(out).with_context(|| format!("cannot make {}", out.display()))?;
    let ca = out.join("ca.crt");
    if ca.exists() {
        let token = admin_token(&control.join("tokens.csv"))?;
        return write_kubeconfig(out, server, &fs::read_to_string(&ca)?, &token);
    }
    if args.san.is_empty() {
        bail!("--san is needed: the names or addresses by which nodes and kubectl reach mesh-control");
    }
    // Group and others may not even list it.
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&control)?;
    let minted = mint(&args.san)?;
    let (admin, node) = (token(), token());
    let tokens = format!("{admin},admin,admin,\"{ADMINS}\"\n{node},node,node,\"{NODES}\"\n");
    // The authority's certificate last: it marks the directory as complete.
    for (path, content, mode) in [
        (out.join("ca.key"), &minted.ca_key, 0o600),
        (control.join("server.key"), &minted.server_key, 0o600),
        (control.join("server.crt"), &minted.server_crt, 0o644),
        (control.join("tokens.csv"), &tokens, 0o600),
        (out.join("node.token"), &format!("{node}\n"), 0o600),
    ] {
        write(&path, content, mode)?;
    }
    write_kubeconfig(out, server, &minted.ca_crt, &admin)?;
    write(&ca, &minted.ca_crt, 0o644)
}

struct Minted {
    ca_key: String,
    ca_crt: String,
    server_key: String,
    server_crt: String,
}

fn mint(san: &[String]) -> anyhow::Result<Minted> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "mesh authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid_for(&mut params, 10)?;
    let ca_crt = params.self_signed(&ca_key)?.pem();
    let issuer = Issuer::from_params(&params, &ca_key);

    let server_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(san.to_vec()).context("--san is neither a DNS name nor an address")?;
    params.distinguished_name.push(DnType::CommonName, "mesh-control");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    valid_for(&mut params, 2)?;
    let server_crt = params.signed_by(&server_key, &issuer)?.pem();
    Ok(Minted { ca_key: ca_key.serialize_pem(), ca_crt, server_key: server_key.serialize_pem(), server_crt })
}

/// From yesterday, so that a node whose clock is a little behind accepts it.
fn valid_for(params: &mut CertificateParams, years: i16) -> anyhow::Result<()> {
    let today = jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let day = |date: jiff::civil::Date| -> anyhow::Result<_> {
        Ok(rcgen::date_time_ymd(i32::from(date.year()), u8::try_from(date.month())?, u8::try_from(date.day())?))
    };
    params.not_before = day(today.yesterday()?)?;
    params.not_after = day(today.checked_add(jiff::Span::new().years(years))?)?;
    Ok(())
}

/// 256 bits from the operating system.
fn token() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// The token of the first administrator, as `init` wrote it.
fn admin_token(path: &Path) -> anyhow::Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let line = text.lines().find(|line| line.contains(ADMINS));
    let token = line.and_then(|line| line.split(',').next());
    token.map(str::to_owned).with_context(|| format!("{} has no token of group {ADMINS}", path.display()))
}

fn write_kubeconfig(out: &Path, server: &str, ca: &str, token: &str) -> anyhow::Result<()> {
    let ca = BASE64_STANDARD.encode(ca);
    let text = format!(
        "apiVersion: v1
kind: Config
clusters:
- name: mesh
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: admin
  user:
    token: {token:?}
contexts:
- name: mesh
  context:
    cluster: mesh
    user: admin
    namespace: default
current-context: mesh
"
    );
    write(&out.join("kubeconfig"), &text, 0o600)
}

/// Writes a file whole, with its mode from the first byte on.
fn write(path: &Path, content: &str, mode: u32) -> anyhow::Result<()> {
    let temporary = path.with_added_extension("new");
    let shown = || format!("cannot write {}", path.display());
    // A leftover could have another mode.
    let _ = fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).with_context(shown)?;
    file.write_all(content.as_bytes()).with_context(shown)?;
    file.sync_all().with_context(shown)?;
    fs::rename(&temporary, path).with_context(shown)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_run_keeps_the_authority_and_rewrites_the_kubeconfig() {
        let dir = tempfile::tempdir().unwrap();
        let mut args = InitArgs {
            out: dir.path().join("mesh"),
            api_server: "https://127.0.0.1:1".to_owned(),
            san: vec!["127.0.0.1".to_owned(), "mesh-control.test".to_owned()],
        };
        init(&args).unwrap();
        let read = |name: &str| fs::read_to_string(args.out.join(name)).unwrap();
        let (ca, tokens) = (read("ca.crt"), read("control/tokens.csv"));
        for secret in ["ca.key", "control/server.key", "control/tokens.csv", "node.token", "kubeconfig"] {
            let mode = fs::metadata(args.out.join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        assert!(read("kubeconfig").contains("https://127.0.0.1:1\n"));
        args.api_server = "https://[::1]:2/".to_owned();
        init(&args).unwrap();
        let read = |name: &str| fs::read_to_string(args.out.join(name)).unwrap();
        assert_eq!((ca, tokens), (read("ca.crt"), read("control/tokens.csv")));
        assert!(read("kubeconfig").contains("https://[::1]:2\n"));
        let loaded = crate::auth::Tokens::load(&args.out.join("control/tokens.csv")).unwrap();
        assert!(loaded.user(read("node.token").trim()).unwrap().is_in(NODES));
    }
}

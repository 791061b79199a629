//! One headless Chromium, driven by chromedriver. Both run in a process namespace of their own whose first process dies with this one:
//! no browser survives a test, however it ends.

use super::wire;
use anyhow::{Context, Result, ensure};
use base64::Engine;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const CHROMIUM: &str = "/usr/bin/chromium";
const DRIVER: &str = "/usr/bin/chromedriver";
/// A browser that talks to nobody but the page: without these it asks for updates and for Google's hosts at every start.
const ARGUMENTS: [&str; 11] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
];
/// The key under which WebDriver names an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// How wide the screen is, in CSS pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    Phone,
    Desk,
}

impl Screen {
    pub(crate) const BOTH: [Self; 2] = [Self::Phone, Self::Desk];

    pub(crate) const fn width(self) -> u32 {
        match self {
            Self::Phone => 390,
            Self::Desk => 1280,
        }
    }
}

pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    files: PathBuf,
}

impl Browser {
    /// # Errors
    /// If one of the two programs is missing or does not come up.
    pub(crate) fn start() -> Result<Self> {
        for program in [CHROMIUM, DRIVER] {
            ensure!(Path::new(program).exists(), "no {program}: apt-get install chromium chromium-driver");
        }
        let files = std::env::temp_dir().join(format!("mesh-browser-{}", std::process::id()));
        std::fs::create_dir_all(&files)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args([DRIVER, "--port=0", "--log-level=WARNING"]).env("TMPDIR", &files).env("HOME", &files);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let driver = command.spawn().context("starting chromedriver")?;
        // From here on an error ends the driver. Its pipe stays open: it may have more to say.
        let mut browser = Self { driver, port: 0, session: String::new(), files };
        browser.port = port(BufReader::new(browser.driver.stdout.as_mut().context("no stdout")?))?;
        let mut arguments = ARGUMENTS.map(str::to_owned).to_vec();
        arguments.push(format!("--user-data-dir={}", browser.files.join("profile").display()));
        let options = json!({ "binary": CHROMIUM, "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "timeouts": { "pageLoad": 60_000 } });
        let answer = wire::call(browser.port, "POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }))?;
        answer["sessionId"].as_str().context("no session")?.clone_into(&mut browser.session);
        browser.devtools("Emulation.setEmulatedMedia", &scheme("light"))?;
        Ok(browser)
    }

    /// Loads a page and waits until all of it is there.
    pub(crate) fn open(&self, url: &str) -> Result<()> {
        self.command("url", &json!({ "url": url })).map(drop)
    }

    /// Runs a function's body in the page; what it returns.
    pub(crate) fn script(&self, body: &str) -> Result<Value> {
        self.command("execute/sync", &json!({ "script": body, "args": [] }))
    }

    /// Clicks as a person does: on what is visible and not covered.
    pub(crate) fn click(&self, selector: &str) -> Result<()> {
        self.on_element(selector, "click", &json!({})).with_context(|| format!("clicking {selector}"))
    }

    pub(crate) fn write(&self, selector: &str, text: &str) -> Result<()> {
        self.on_element(selector, "value", &json!({ "text": text })).with_context(|| format!("writing into {selector}"))
    }

    pub(crate) fn screen(&self, screen: Screen) -> Result<()> {
        let phone = screen == Screen::Phone;
        let height = if phone { 844 } else { 900 };
        let metrics = json!({ "width": screen.width(), "height": height, "deviceScaleFactor": 1, "mobile": phone });
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics).map(drop)
    }

    /// `light` or `dark`, as the visitor's system says.
    pub(crate) fn color_scheme(&self, name: &str) -> Result<()> {
        self.devtools("Emulation.setEmulatedMedia", &scheme(name)).map(drop)
    }

    /// A picture of the whole page, also of what one would scroll to.
    pub(crate) fn picture(&self, to: &Path) -> Result<()> {
        let answer = self.devtools("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }))?;
        let png = base64::engine::general_purpose::STANDARD.decode(answer["data"].as_str().context("no picture")?)?;
        std::fs::write(to, png).with_context(|| format!("writing {}", to.display()))
    }

    fn on_element(&self, selector: &str, verb: &str, body: &Value) -> Result<()> {
        let found = self.command("element", &json!({ "using": "css selector", "value": selector }))?;
        let id = found[ELEMENT].as_str().context("not an element")?;
        self.command(&format!("element/{id}/{verb}"), body).map(drop)
    }

    fn devtools(&self, method: &str, parameters: &Value) -> Result<Value> {
        self.command("goog/cdp/execute", &json!({ "cmd": method, "params": parameters }))
    }

    fn command(&self, path: &str, body: &Value) -> Result<Value> {
        wire::call(self.port, "POST", &format!("/session/{}/{path}", self.session), body)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            // A browser that does not close is killed below.
            let _ = wire::call(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let removed = mesh_tests::eventually("removing the browser's files", std::time::Duration::from_secs(5), || {
            Ok(std::fs::remove_dir_all(&self.files)?)
        });
        if let Err(error) = removed {
            eprintln!("{error:#}");
        }
    }
}

fn scheme(name: &str) -> Value {
    json!({ "features": [{ "name": "prefers-color-scheme", "value": name }] })
}

/// `ChromeDriver was started successfully on port 34567.`
fn port(mut said: impl BufRead) -> Result<u16> {
    let mut line = String::new();
    loop {
        line.clear();
        ensure!(said.read_line(&mut line)? > 0, "chromedriver ended before it named a port");
        if let Some((_, port)) = line.split_once("successfully on port ") {
            return port.trim().trim_end_matches('.').parse().context("chromedriver's port");
        }
    }
}

//! A headless Chromium, driven over the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use oncekey_store_testing::server::{Daemon, Home, Program, find};
use serde_json::{Value, json};

const INSTALL: &str = "these tests click in a real browser: install Chromium and its driver \
    (Debian: apt-get install chromium chromium-driver), or name the driver in ONCEKEY_CHROMEDRIVER";

/// How long the browser may take for anything: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The key under which WebDriver has an element's reference.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

pub(crate) struct Browser {
    /// Its directory is where driver and browser keep their files; gone when they are.
    _driver: Daemon,
    port: u16,
    session: String,
}

impl Browser {
    /// A fresh browser with a window of this size, in pixels.
    pub(crate) fn open(width: u32, height: u32) -> Self {
        let named = std::env::var_os("ONCEKEY_CHROMEDRIVER").map(Into::into);
        let program = named.or_else(|| find(&["chromedriver"])).unwrap_or_else(|| panic!("{INSTALL}"));
        let home = Home::new("browser");
        let program = Program::new(program).args(["--port=0"]).env("TMPDIR", home.path());
        let driver = Daemon::new(home, program);
        let started = driver.start(|| port(&driver.home().log()).is_some());
        started.unwrap_or_else(|why| panic!("{why}; {INSTALL}"));
        let port = port(&driver.home().log()).expect("it said so");
        let mut browser = Self { _driver: driver, port, session: String::new() };
        let capabilities = json!({ "alwaysMatch": {
            "browserName": "chrome",
            // No sandbox: root has none, and the only page it opens is ours.
            "goog:chromeOptions": { "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
                "--force-prefers-reduced-motion", format!("--window-size={width},{height}"),
            ] },
        } });
        let made = browser.ask("POST", "/session", &json!({ "capabilities": capabilities }));
        let made = made.unwrap_or_else(|problem| panic!("no browser: {problem}; {INSTALL}"));
        browser.session = made["sessionId"].as_str().expect("a session has an id").to_owned();
        browser
    }

    pub(crate) fn go(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// Clicks as a person does: scrolled to, and refused by the browser if something lies over it.
    pub(crate) fn click(&self, css: &str) {
        let element = self.element(css);
        self.post(&format!("/element/{element}/click"), &json!({}));
    }

    /// Two clicks, as quick as a hand is.
    pub(crate) fn double_click(&self, css: &str) {
        let element = json!({ ELEMENT: self.element(css) });
        let (down, up) =
            (json!({ "type": "pointerDown", "button": 0 }), json!({ "type": "pointerUp", "button": 0 }));
        let to = json!({ "type": "pointerMove", "duration": 0, "origin": element, "x": 0, "y": 0 });
        let between = json!({ "type": "pause", "duration": 60 });
        let actions = json!([to, down, up, between, down, up]);
        let mouse = json!({ "type": "pointer", "id": "mouse", "actions": actions });
        self.post("/actions", &json!({ "actions": [mouse] }));
    }

    /// Sends keys to an element; Enter is `\u{E007}`.
    pub(crate) fn keys(&self, css: &str, keys: &str) {
        let element = self.element(css);
        self.post(&format!("/element/{element}/value"), &json!({ "text": keys }));
    }

    /// What assistive technology takes an element for: its role, and its name.
    pub(crate) fn accessible(&self, css: &str) -> (String, String) {
        let element = self.element(css);
        let get = |what: &str| self.get(&format!("/element/{element}/{what}"));
        let text = |value: Value| value.as_str().unwrap_or_default().to_owned();
        (text(get("computedrole")), text(get("computedlabel")))
    }

    /// Gives back what a script returns.
    pub(crate) fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Forgets who the browser is, as far as the server knew it.
    pub(crate) fn forget_cookies(&self) {
        self.devtools("Network.clearBrowserCookies", &json!({}));
    }

    /// `light` or `dark`.
    pub(crate) fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// Gives the page this width and height, in pixels.
    pub(crate) fn resize(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// The window, as a PNG.
    pub(crate) fn screenshot(&self) -> Vec<u8> {
        let image = self.get("/screenshot");
        from_base64(image.as_str().expect("a screenshot is text"))
    }

    fn devtools(&self, command: &str, parameters: &Value) {
        self.post("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn element(&self, css: &str) -> String {
        let found = self.post("/element", &json!({ "using": "css selector", "value": css }));
        found[ELEMENT].as_str().expect("an element has a reference").to_owned()
    }

    fn get(&self, path: &str) -> Value {
        self.in_session("GET", path, &Value::Null)
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.in_session("POST", path, body)
    }

    fn in_session(&self, method: &str, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}{path}", self.session);
        self.ask(method, &path, body).unwrap_or_else(|problem| panic!("{method} {path}: {problem}"))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let (status, body) = exchange(self.port, method, path, body).map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
        let value = answer["value"].take();
        if status == 200 { Ok(value) } else { Err(format!("{}: {}", value["error"], value["message"])) }
    }
}

impl Drop for Browser {
    /// Closes the browser, which is the driver's child and would outlive it. The driver ends with its handle.
    fn drop(&mut self) {
        let _closed = exchange(self.port, "DELETE", &format!("/session/{}", self.session), &Value::Null);
    }
}

/// Where a driver listens: it says so.
fn port(log: &str) -> Option<u16> {
    log.lines().find_map(|line| {
        let (_, port) = line.split_once("started successfully on port ")?;
        port.trim_end_matches('.').parse().ok()
    })
}

/// One request on a connection of its own.
fn exchange(port: u16, method: &str, path: &str, body: &Value) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = if body.is_null() { String::new() } else { body.to_string() };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line)?;
    let malformed = || std::io::Error::other(format!("not HTTP: {line:?}"));
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(malformed)?;
    let mut length = 0;
    for field in stream.by_ref().lines() {
        let field = field?.to_ascii_lowercase();
        if field.is_empty() {
            break;
        }
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    String::from_utf8(body).map(|body| (status, body)).map_err(std::io::Error::other)
}

fn from_base64(text: &str) -> Vec<u8> {
    let sextet = |letter: u8| match letter {
        b'A'..=b'Z' => u32::from(letter - b'A'),
        b'a'..=b'z' => u32::from(letter - b'a') + 26,
        b'0'..=b'9' => u32::from(letter - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let letters: Vec<u8> = text.bytes().filter(|letter| *letter != b'=').collect();
    let chunk = |four: &[u8]| {
        let bits = four.iter().fold(0, |bits, letter| bits << 6 | sextet(*letter)) << (6 * (4 - four.len()));
        let [_, bytes @ ..] = bits.to_be_bytes();
        bytes[..four.len() - 1].to_vec()
    };
    letters.chunks(4).flat_map(chunk).collect()
}

/// Waits until `look` sees something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(50));
    }
}

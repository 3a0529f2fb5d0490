//! Chromium, driven by its own protocol (Chrome DevTools Protocol).

use std::{
    fs,
    net::TcpStream,
    path::Path,
    time::{Duration, Instant},
};

use aegisray::lab::{daemon::wait_for, topology::Host};
use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use super::{harness::Dir, running::Running};

const PORT: u16 = 9222;
const PATIENCE: Duration = Duration::from_secs(15);

/// Keeps the connections of calls where a test finds them.
const WATCH_CALLS: &str = "window.connections = []; const Plain = RTCPeerConnection; \
    window.RTCPeerConnection = class extends Plain { constructor(...all) { super(...all); connections.push(this) } }";

pub struct Browser {
    socket: WebSocket<TcpStream>,
    next: u64,
    /// What the page has complained about.
    pub errors: Vec<String>,
    _process: Running,
}

impl Browser {
    /// Opens a page on a host; `None` without Chromium on this machine.
    pub fn open(dir: &Dir, host: &Host, name: &str, url: &str) -> Option<Self> {
        let chromium = ["/usr/bin/chromium", "/usr/bin/google-chrome"].into_iter().find(|p| Path::new(p).exists())?;
        let mut command = host.ns.command(chromium);
        command
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--hide-scrollbars"])
            .args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"])
            .arg(format!("--remote-debugging-port={PORT}"))
            .arg(format!("--user-data-dir={}", dir.0.join(format!("browser-{name}")).display()))
            .arg("about:blank");
        let process = Running::start(command);
        let target = wait_for(PATIENCE, || {
            let mut curl = host.ns.command("curl");
            let url = format!("http://127.0.0.1:{PORT}/json/list");
            let list = curl.args(["-s", "-m", "2", "--noproxy", "*", &url]).output().expect("curl is installed");
            let pages: Value = serde_json::from_slice(&list.stdout).ok()?;
            let page = pages.as_array()?.iter().find(|p| p["type"] == "page")?;
            page["webSocketDebuggerUrl"].as_str().map(str::to_owned)
        });
        let target = target.expect("Chromium starts");
        let stream = host.ns.run(|| TcpStream::connect(("127.0.0.1", PORT))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (socket, _) = tungstenite::client(&target, stream).expect("Chromium's protocol");
        let mut browser = Self { socket, next: 0, errors: Vec::new(), _process: process };
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.call("Page.addScriptToEvaluateOnNewDocument", json!({ "source": WATCH_CALLS }));
        browser.call("Page.navigate", json!({ "url": url }));
        browser.need("document.readyState === 'complete'", "the page");
        Some(browser)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let text = json!({ "id": self.next, "method": method, "params": params }).to_string();
        self.socket.send(Message::text(text)).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().expect("Chromium answers") else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            match answer["method"].as_str() {
                Some("Runtime.exceptionThrown") => {
                    self.errors.push(answer["params"]["exceptionDetails"].to_string());
                }
                Some("Log.entryAdded") if answer["params"]["entry"]["level"] == "error" => {
                    self.errors.push(answer["params"]["entry"].to_string());
                }
                _ if answer["id"] == self.next => {
                    assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                    return answer["result"].clone();
                }
                _ => {}
            }
        }
    }

    /// What an expression comes to; promises are awaited.
    pub fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let result = self.call("Runtime.evaluate", params);
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn need(&mut self, condition: &str, what: &str) {
        let start = Instant::now();
        while self.eval(condition) != Value::Bool(true) {
            if start.elapsed() > PATIENCE {
                let seen = self.eval("document.body.innerText");
                panic!("no {what}; the page says:\n{}\n{:?}", seen.as_str().unwrap_or_default(), self.errors);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until a text is on the page, or is no longer.
    #[track_caller]
    pub fn need_text(&mut self, text: &str, there: bool) {
        let text = json!(text);
        self.need(&format!("document.body.innerText.includes({text}) === {there}"), &format!("{text} ({there})"));
    }

    /// Clicks the button that is called so, in its text or by its label.
    #[track_caller]
    pub fn click(&mut self, name: &str) {
        let find = format!(
            "(() => {{ const all = [...(document.querySelector('dialog[open]') ?? document).querySelectorAll('button, summary')]\
             .filter(b => b.checkVisibility()); const names = b => [b.innerText.trim(), b.ariaLabel ?? '']; \
             return all.find(b => names(b).includes({0})) ?? all.find(b => names(b).some(n => n.startsWith({0}))) }})()",
            json!(name)
        );
        self.need(&format!("!!{find}"), &format!("button {name}"));
        self.eval(&format!("{find}.click()"));
    }

    /// Fills in the field with this label.
    #[track_caller]
    pub fn fill(&mut self, label: &str, text: &str) {
        let find = format!(
            "[...document.querySelectorAll('label')].find(l => l.textContent.trim().startsWith({}))",
            json!(label)
        );
        self.need(&format!("!!{find}"), &format!("field {label}"));
        self.eval(&format!("{{ const l = {find}; (l.control ?? l.querySelector('input')).value = {} }}", json!(text)));
    }

    /// Picks a file, as somebody would in the browser's dialog.
    pub fn pick(&mut self, input: &str, file: &Path) {
        let found = json!({ "expression": format!("document.getElementById('{input}')") });
        let object = self.call("Runtime.evaluate", found)["result"]["objectId"].clone();
        self.call("DOM.setFileInputFiles", json!({ "files": [file], "objectId": object }));
    }

    /// What the statistics of the last call say (RFC 8829, webrtc-stats): frames of the other that were decoded, sound that came, and
    /// the addresses it goes between.
    pub fn call_statistics(&mut self) -> Value {
        self.eval(
            "(async () => { const all = [...(await connections.at(-1).getStats()).values()]; \
             const inbound = kind => all.find(s => s.type === 'inbound-rtp' && s.kind === kind); \
             const pair = all.find(s => s.type === 'candidate-pair' && s.nominated); const at = id => all.find(s => s.id === id)?.address; \
             return { frames: inbound('video')?.framesDecoded ?? 0, sound: inbound('audio')?.packetsReceived ?? 0, \
             from: at(pair?.localCandidateId), to: at(pair?.remoteCandidateId) } })()",
        )
    }

    /// Types a message and sends it.
    pub fn say(&mut self, text: &str) {
        self.need("!document.getElementById('composer').hidden && !document.querySelector('dialog[open]')", "composer");
        self.eval("document.getElementById('text').focus()");
        self.call("Input.insertText", json!({ "text": text }));
        for kind in ["keyDown", "keyUp"] {
            let key =
                json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r" });
            self.call("Input.dispatchKeyEvent", key);
        }
    }

    /// A picture of the page at a width.
    pub fn picture(&mut self, file: &Path, (width, height): (u32, u32)) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        std::thread::sleep(Duration::from_millis(300));
        let data = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        let bytes = data_encoding::BASE64.decode(data["data"].as_str().unwrap().as_bytes()).unwrap();
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, bytes).unwrap();
        assert_eq!(
            self.eval("document.documentElement.scrollWidth <= innerWidth"),
            true,
            "nothing is cut off at {width}"
        );
    }

    /// What axe finds of serious and critical faults; `None` without it.
    pub fn axe(&mut self) -> Option<Vec<String>> {
        let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("target/axe/axe.min.js")).ok()?;
        // In a world of its own: the page's policy lets in no other scripts, and this is none of the page.
        self.eval(&format!("{script}; true"));
        let found = self.eval("axe.run().then(r => r.violations.filter(v => ['serious', 'critical'].includes(v.impact)).map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')))");
        Some(found.as_array()?.iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect())
    }
}

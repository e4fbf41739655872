//! Chromium without a window, spoken to over a pipe by its own protocol (`DevTools`): no driver, and no port.
//!
//! A page keeps what a reader would not see: errors of its console, violations of its policy, requests to other places.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::installed;
use crate::reaper::run_folder;
use crate::wait::{PATIENCE, until};

/// Runs the program with the pipe where it looks for it. It ends when the pipe does.
const SCRIPT: &str = r#"exec "$@" 3<&0 4>&1 0</dev/null 1>/dev/null 2>/dev/null"#;

const OPTIONS: &[&str] = &[
    "--headless",
    "--remote-debugging-pipe",
    // The tests may run as root, and in a container without user namespaces. It opens pages of ours alone.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--hide-scrollbars",
    "--no-first-run",
    "--no-default-browser-check",
];

/// The browser of this process.
#[derive(Debug)]
pub struct Browser {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    pipe: Mutex<ChildStdin>,
    calls: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    /// Readers of events, by session.
    readers: Mutex<HashMap<String, mpsc::UnboundedSender<Value>>>,
}

/// One page, with nothing of another one's.
#[derive(Debug)]
pub struct Page {
    state: Arc<State>,
    session: String,
    events: mpsc::UnboundedReceiver<Value>,
    /// Beginning of the addresses that it may ask.
    own: String,
    problems: Vec<String>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Browser {
    /// Returns the browser that all tests share. It is started by the first one.
    ///
    /// # Panics
    /// It is not installed.
    pub fn shared() -> &'static Self {
        static BROWSER: OnceLock<Browser> = OnceLock::new();
        BROWSER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let program = installed::browser().expect("no Chromium: `cargo xtask test` installs it");
        let folder = run_folder().join("browser");
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(program)
            .args(OPTIONS)
            .arg(format!("--user-data-dir={}", folder.display()))
            .env("HOME", run_folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let pipe = Mutex::new(child.stdin.take().expect("it is piped"));
        let mut messages = BufReader::new(child.stdout.take().expect("it is piped"));
        let state = Arc::new(State {
            pipe,
            calls: AtomicU64::new(1),
            waiting: Mutex::default(),
            readers: Mutex::default(),
        });
        let reading = Arc::clone(&state);
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while messages.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                reading.arrived(serde_json::from_slice(&message).unwrap_or_default());
                message.clear();
            }
            // Whoever waits is told that nothing comes any more.
            lock(&reading.waiting).clear();
            lock(&reading.readers).clear();
            let _ = child.wait();
        });
        Self { state }
    }

    /// Opens a page that may ask for addresses which begin so.
    pub async fn page(&self, own: &str) -> Page {
        let call = async |method: &str, params| self.state.call("", method, params).await;
        let context = call("Target.createBrowserContext", json!({})).await;
        let target = json!({"url": "about:blank", "browserContextId": context["browserContextId"]});
        let target = call("Target.createTarget", target).await;
        let attached = json!({"targetId": target["targetId"], "flatten": true});
        let attached = call("Target.attachToTarget", attached).await;
        let session = attached["sessionId"].as_str().expect("a session").to_owned();
        let (sender, events) = mpsc::unbounded_channel();
        lock(&self.state.readers).insert(session.clone(), sender);
        let (state, own) = (Arc::clone(&self.state), own.to_owned());
        let page = Page { state, session, events, own, problems: Vec::new() };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            page.call(&format!("{domain}.enable"), json!({})).await;
        }
        page
    }
}

impl State {
    fn arrived(&self, message: Value) {
        if let Some(id) = message["id"].as_u64() {
            if let Some(waiting) = lock(&self.waiting).remove(&id) {
                let _ = waiting.send(message);
            }
        } else if let Some(session) = message["sessionId"].as_str()
            && let Some(reader) = lock(&self.readers).get(session)
        {
            let _ = reader.send(message);
        }
    }

    async fn call(&self, session: &str, method: &str, params: Value) -> Value {
        let id = self.calls.fetch_add(1, Ordering::Relaxed);
        let mut call = json!({"id": id, "method": method, "params": params});
        if !session.is_empty() {
            call["sessionId"] = json!(session);
        }
        let (sender, answer) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut text = call.to_string().into_bytes();
        text.push(0);
        lock(&self.pipe).write_all(&text).expect("the browser is there");
        let answer = timeout(PATIENCE, answer).await;
        let mut answer =
            answer.unwrap_or_else(|_| panic!("no answer to {call}")).expect("the browser is there");
        assert!(answer["error"].is_null(), "{call}: {answer}");
        answer["result"].take()
    }
}

impl Page {
    async fn call(&self, method: &str, params: Value) -> Value {
        self.state.call(&self.session, method, params).await
    }

    /// Opens an address, and waits until everything on it is there.
    pub async fn open(&mut self, path: &str) {
        self.take_events();
        let url = format!("{}{path}", self.own);
        let answer = self.call("Page.navigate", json!({"url": url})).await;
        assert!(answer["errorText"].is_null(), "{url}: {answer}");
        self.loaded().await;
    }

    /// Waits until a page has come.
    async fn loaded(&mut self) {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await;
            let event = event.expect("a page that loads").expect("the browser is there");
            let is_loaded = event["method"] == "Page.loadEventFired";
            self.judge(&event);
            if is_loaded {
                return;
            }
        }
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            self.judge(&event);
        }
    }

    /// Keeps what is wrong with what happened.
    fn judge(&mut self, event: &Value) {
        let of = &event["params"];
        let problem = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Page.javascriptDialogOpening" => Some(event.to_string()),
            "Runtime.consoleAPICalled" if of["type"] == "error" || of["type"] == "warning" => {
                Some(event.to_string())
            }
            "Log.entryAdded" => {
                let level = of["entry"]["level"].as_str().unwrap_or_default();
                ["error", "warning"].contains(&level).then(|| event.to_string())
            }
            "Network.requestWillBeSent" => {
                let url = of["request"]["url"].as_str().unwrap_or_default();
                let is_own = url.strip_prefix(&self.own).is_some_and(|rest| rest.starts_with('/'));
                (!is_own).then(|| format!("it asks for {url}"))
            }
            _ => None,
        };
        self.problems.extend(problem);
    }

    /// Takes what was wrong since it was asked last.
    pub fn problems(&mut self) -> Vec<String> {
        self.take_events();
        std::mem::take(&mut self.problems)
    }

    /// Returns the value of an expression of JavaScript.
    pub async fn value(&self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.call("Runtime.evaluate", params).await;
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Returns what a reader sees.
    pub async fn text(&self) -> String {
        let text = self.value("document.body ? document.body.innerText : ''").await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a reader sees this.
    pub async fn sees(&self, text: &str) {
        until(text, async || self.text().await.contains(text).then_some(())).await;
    }

    /// Clicks in the middle of the first element that this selects, and waits for the page to which it leads.
    pub async fn click(&mut self, selector: &str) {
        let quoted = json!(selector);
        let place = format!(
            "(() => {{ const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center'}}); \
             const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})()"
        );
        let place = self.value(&place).await;
        self.take_events();
        for kind in ["mouseMoved", "mousePressed", "mouseReleased"] {
            let params = json!({
                "type": kind, "x": place[0], "y": place[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    /// Clicks, and waits for the page to which that leads.
    pub async fn follow(&mut self, selector: &str) {
        self.click(selector).await;
        self.loaded().await;
    }

    /// Runs a script, and waits for the page to which it leads.
    pub async fn led_by(&mut self, script: &str) {
        self.take_events();
        self.value(script).await;
        self.loaded().await;
    }

    /// Types into the first element that this selects.
    pub async fn write(&self, selector: &str, text: &str) {
        let quoted = json!(selector);
        self.value(&format!("document.querySelector({quoted}).focus()")).await;
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses a key: `Tab`, `Enter` or ` `.
    pub async fn press(&mut self, key: &str) {
        self.take_events();
        let (code, number, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            " " => ("Space", 32, " "),
            other => panic!("{other} is none of the keys"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut params = json!({
                "type": kind, "key": key, "code": code, "windowsVirtualKeyCode": number,
            });
            if kind == "keyDown" && !text.is_empty() {
                params["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Goes on from field to field by the key Tab until one that this selects has the focus, which must be seen there.
    pub async fn tab_to(&mut self, selector: &str) {
        const FIELDS_MAX: usize = 200;
        let quoted = json!(selector);
        let seen = format!(
            "(() => {{ const e = document.activeElement; if (!e.matches({quoted})) return ''; \
             const style = getComputedStyle(e); return `${{style.outlineStyle}} ${{style.outlineWidth}}`; }})()"
        );
        for _ in 0..FIELDS_MAX {
            self.press("Tab").await;
            let outline = self.value(&seen).await;
            if outline != "" {
                assert_eq!(outline, "solid 3px", "{selector} shows that it has the focus");
                return;
            }
        }
        panic!("no {selector} is reached by the key Tab");
    }

    /// Types where the focus is.
    pub async fn type_text(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// Presses the key Enter, and waits for the page to which that leads.
    pub async fn enter(&mut self) {
        self.press("Enter").await;
        self.loaded().await;
    }

    /// Sends these headers with every request.
    pub async fn headers(&self, headers: Value) {
        self.call("Network.setExtraHTTPHeaders", json!({ "headers": headers })).await;
    }

    /// Makes the window so wide and high, in CSS pixels.
    pub async fn size(&self, width: u32, height: u32) {
        let params =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    /// Prefers `light` or `dark`.
    pub async fn theme(&self, theme: &str) {
        let features = json!([{"name": "prefers-color-scheme", "value": theme}]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }

    /// Turns scripts off, or on again.
    pub async fn scripts(&self, are_on: bool) {
        self.call("Emulation.setScriptExecutionDisabled", json!({ "value": !are_on })).await;
    }

    /// Takes a picture of what is in the window: a PNG in base64.
    pub async fn picture(&self) -> String {
        let shot = self.call("Page.captureScreenshot", json!({"format": "png"})).await;
        shot["data"].as_str().unwrap_or_default().to_owned()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        lock(&self.state.readers).remove(&self.session);
        // Nobody waits for the answer.
        let call = json!({"id": 0, "method": "Page.close", "sessionId": self.session});
        let mut text = call.to_string().into_bytes();
        text.push(0);
        let _ = lock(&self.state.pipe).write_all(&text);
    }
}

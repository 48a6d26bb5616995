//! The cache service of GitHub Actions on the loopback interface, written to its public protocol: Twirp calls, signed URLs, and
//! the blobs behind those as Azure's storage takes and gives them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use serde_json::json;

use super::http;
use super::http::Answer;
use super::http::Request;

/// Says of a request, `CreateCacheEntry KEY` or `GET /blob/1`, what is answered in the place of the service.
type Rule = Box<dyn FnMut(&str) -> Option<&'static str> + Send>;

#[derive(Default)]
struct State {
    /// In the order in which they were made.
    entries: Vec<Entry>,
    log: Vec<String>,
    rule: Option<Rule>,
    /// Why nothing more is kept.
    full: Option<&'static str>,
}

struct Entry {
    /// The branch that made it.
    branch: String,
    key: String,
    version: String,
    blob: Option<Vec<u8>>,
    blocks: BTreeMap<String, Vec<u8>>,
    done: bool,
}

/// The service. Its threads end with the test process.
pub(crate) struct ActionsCache {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl ActionsCache {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let port = http::serve(move |request| answer(request, &shared));
        Self { port, state }
    }

    /// ACTIONS_RESULTS_URL
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// ACTIONS_RUNTIME_TOKEN of a job on the first of these branches, which may read the others: without a signature that
    /// means anything, as nobody but the service can tell.
    pub(crate) fn token(branches: &[&str], writes: bool) -> String {
        let scopes = branches.iter().enumerate().map(|(at, branch)| {
            let permission = if at == 0 && writes { 3 } else { 1 };
            json!({"Scope": branch, "Permission": permission})
        });
        let scopes: Vec<Value> = scopes.collect();
        let claims = json!({"ac": Value::from(scopes).to_string(), "exp": 4_102_444_800_u64});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({"alg": "none", "typ": "JWT"});
        format!("{}.{}.c2ln", part(&header), part(&claims))
    }

    /// What was asked since the last time: `CreateCacheEntry KEY`, `GET /blob/1`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// From now on some requests are answered so: `429 Too Many Requests\r\nRetry-After: 0`.
    pub(crate) fn refuse(&self, rule: impl FnMut(&str) -> Option<&'static str> + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    pub(crate) fn refuse_nothing(&self) {
        self.state.lock().unwrap().rule = None;
    }

    /// Removes the entries of which `gone` says so by their keys.
    pub(crate) fn evict(&self, gone: impl Fn(&str) -> bool) {
        let mut state = self.state.lock().unwrap();
        let gone = state.entries.iter_mut().filter(|entry| gone(&entry.key));
        gone.for_each(remove);
    }

    /// Changes what entries have in them; one that has nothing in it then is removed.
    pub(crate) fn change(&self, change: impl Fn(&str, &mut Vec<u8>)) {
        let mut state = self.state.lock().unwrap();
        for entry in &mut state.entries {
            if let Some(blob) = &mut entry.blob {
                change(&entry.key, blob);
                if blob.is_empty() {
                    remove(entry);
                }
            }
        }
    }

    /// From now on no entry is begun, and this is why.
    pub(crate) fn is_full(&self, why: &'static str) {
        self.state.lock().unwrap().full = Some(why);
    }

    /// The keys of all entries that are whole.
    pub(crate) fn keys(&self) -> Vec<String> {
        let state = self.state.lock().unwrap();
        let done = state.entries.iter().filter(|entry| entry.done);
        done.map(|entry| entry.key.clone()).collect()
    }
}

/// Signed URLs name entries by their places: they stay, with nothing that is found.
fn remove(entry: &mut Entry) {
    entry.done = false;
    entry.blob = None;
    entry.key = String::new();
}

fn answer(request: Request, state: &Mutex<State>) -> Answer {
    let Request {
        method,
        target,
        headers,
        body,
    } = request;
    let mut state = state.lock().unwrap();
    match target.strip_prefix("/twirp/github.actions.results.api.v1.CacheService/") {
        Some(name) => twirp(&mut state, name, &headers, &body),
        None => storage(&mut state, &method, &target, &headers, body),
    }
}

fn refused(state: &mut State, line: String) -> Option<Answer> {
    let refused = state.rule.as_mut().and_then(|rule| rule(&line));
    state.log.push(line);
    refused.map(|status| (status, Vec::new()))
}

fn json_of(status: &'static str, value: &Value) -> Answer {
    (status, value.to_string().into_bytes())
}

/// The branches that a token may read, the first if it may be written.
fn branches(headers: &BTreeMap<String, String>) -> Option<(Vec<String>, Option<String>)> {
    let token = headers.get("authorization")?.strip_prefix("Bearer ")?;
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let scopes: Value = serde_json::from_str(claims["ac"].as_str()?).ok()?;
    let name = |scope: &Value| scope["Scope"].as_str().unwrap().to_owned();
    let scopes = scopes.as_array()?;
    let may_write = |scope: &&Value| scope["Permission"].as_u64().unwrap() & 2 != 0;
    let writes = scopes.iter().find(may_write).map(name);
    Some((scopes.iter().map(name).collect(), writes))
}

fn twirp(state: &mut State, name: &str, headers: &BTreeMap<String, String>, body: &[u8]) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap();
    let key = body["key"].as_str().unwrap().to_owned();
    let version = body["version"].as_str().unwrap().to_owned();
    assert!(key.len() <= 512 && !key.contains(','), "{key}");
    if let Some(refused) = refused(state, format!("{name} {key}")) {
        return refused;
    }
    assert_eq!(headers["content-type"], "application/json");
    let Some((reads, writes)) = branches(headers) else {
        let error = json!({"code": "unauthenticated", "msg": "no token"});
        return json_of("401 Unauthorized", &error);
    };
    let host = &headers["host"];
    let url = |at: usize| format!("http://{host}/blob/{at}?sig=secret%2F&se=2099");
    match name {
        "CreateCacheEntry" => {
            let Some(branch) = writes else {
                let error = json!({"code": "permission_denied", "msg": "read only"});
                return json_of("403 Forbidden", &error);
            };
            if let Some(why) = state.full {
                return json_of("200 OK", &json!({"ok": false, "message": why}));
            }
            let same = |entry: &&Entry| {
                (&entry.branch, &entry.key, &entry.version) == (&branch, &key, &version)
            };
            if state.entries.iter().any(|entry| same(&entry)) {
                let error = json!({"code": "already_exists", "msg": "cache entry already exists"});
                return json_of("409 Conflict", &error);
            }
            state.entries.push(Entry {
                branch,
                key,
                version,
                blob: None,
                blocks: BTreeMap::new(),
                done: false,
            });
            let url = url(state.entries.len() - 1);
            json_of("200 OK", &json!({"ok": true, "signed_upload_url": url}))
        }
        "FinalizeCacheEntryUpload" => {
            let size = body["size_bytes"]
                .as_str()
                .unwrap()
                .parse::<usize>()
                .unwrap();
            let branch = writes.unwrap();
            let mut entries = state.entries.iter_mut();
            let entry = entries.find(|entry| entry.key == key && entry.branch == branch);
            let entry = entry.unwrap();
            entry.done = entry.blob.as_ref().map(Vec::len) == Some(size);
            json_of("200 OK", &json!({"ok": entry.done, "entry_id": "1"}))
        }
        "GetCacheEntryDownloadURL" => {
            let others = body["restore_keys"].as_array().unwrap();
            let whole = |entry: &&(usize, &Entry)| entry.1.done && entry.1.version == version;
            let mut found = None;
            for branch in &reads {
                let entries = state.entries.iter().enumerate().rev();
                let of_branch: Vec<_> = entries
                    .filter(|entry| whole(&entry) && entry.1.branch == *branch)
                    .collect();
                let exact = of_branch.iter().find(|(_, entry)| entry.key == key);
                let newest = || {
                    let mut prefixes = others.iter().map(|other| other.as_str().unwrap());
                    prefixes.find_map(|prefix| {
                        let mut entries = of_branch.iter();
                        entries.find(|(_, entry)| entry.key.starts_with(prefix))
                    })
                };
                found = exact
                    .or_else(newest)
                    .map(|(at, entry)| (*at, entry.key.clone()));
                if found.is_some() {
                    break;
                }
            }
            match found {
                Some((at, key)) => json_of(
                    "200 OK",
                    &json!({"ok": true, "signed_download_url": url(at), "matched_key": key}),
                ),
                None => json_of(
                    "200 OK",
                    &json!({"ok": false, "signed_download_url": "", "matched_key": ""}),
                ),
            }
        }
        other => panic!("no method {other}"),
    }
}

/// Get Blob, Put Blob, Put Block and Put Block List.
fn storage(
    state: &mut State,
    method: &str,
    target: &str,
    headers: &BTreeMap<String, String>,
    body: Vec<u8>,
) -> Answer {
    let (path, query) = target.split_once('?').unwrap();
    if let Some(refused) = refused(state, format!("{method} {path}")) {
        return refused;
    }
    // What is signed needs no token, and is to get none.
    assert!(!headers.contains_key("authorization"));
    let parameters = || query.split('&');
    if !parameters().any(|parameter| parameter == "sig=secret%2F") {
        return ("403 Forbidden", Vec::new());
    }
    let at: usize = path.strip_prefix("/blob/").unwrap().parse().unwrap();
    let entry = &mut state.entries[at];
    let of = |name: &str| {
        parameters()
            .find_map(|it| it.strip_prefix(name))
            .map(str::to_owned)
    };
    match (method, of("comp=").as_deref()) {
        ("GET", None) => match &entry.blob {
            Some(blob) if entry.done => ("200 OK", blob.clone()),
            _ => ("404 Not Found", Vec::new()),
        },
        ("PUT", None) => {
            assert_eq!(headers["x-ms-blob-type"], "BlockBlob");
            entry.blob = Some(body);
            ("201 Created", Vec::new())
        }
        ("PUT", Some("block")) => {
            let id = query.split("blockid=").nth(1).unwrap().replace("%3D", "=");
            entry.blocks.insert(id, body);
            ("201 Created", Vec::new())
        }
        ("PUT", Some("blocklist")) => {
            let list = String::from_utf8(body).unwrap();
            let ids = list.split("<Latest>").skip(1);
            let ids = ids.map(|rest| rest.split("</Latest>").next().unwrap());
            entry.blob = Some(ids.flat_map(|id| entry.blocks[id].clone()).collect());
            ("201 Created", Vec::new())
        }
        other => panic!("{other:?}"),
    }
}

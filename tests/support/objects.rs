//! A store of objects on the loopback interface that speaks as much of Amazon's S3 and of Azure's blob storage as caches take:
//! GET, HEAD and PUT of whole objects. That requests carry what each protocol wants is asserted. What signatures come to is
//! proven beside the code that makes them, by Amazon's examples; and by hand against moto and Azurite (`benches/results`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;

use sha2::Digest as _;
use sha2::Sha256;

use super::http;
use super::http::Answer;
use super::http::Request;

/// Says of a request, `GET /bucket/key`, what is answered in the place of the store.
type Rule = Box<dyn Fn(&str) -> Option<&'static str> + Send>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Vec<u8>>,
    log: Vec<String>,
    rule: Option<Rule>,
}

/// The store. Its threads end with the test process.
pub(crate) struct ObjectStore {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl ObjectStore {
    pub(crate) fn start() -> Self {
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let port = http::serve(move |request| answer(request, &shared));
        Self { port, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What was asked since the last time: `GET /bucket/key`.
    pub(crate) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// From now on some requests are answered so: `503 Slow Down\r\nRetry-After: 0`.
    pub(crate) fn refuse(&self, rule: impl Fn(&str) -> Option<&'static str> + Send + 'static) {
        self.state.lock().unwrap().rule = Some(Box::new(rule));
    }

    pub(crate) fn refuse_nothing(&self) {
        self.state.lock().unwrap().rule = None;
    }

    /// The objects, by their paths, to look at and to change.
    pub(crate) fn objects<R>(&self, look: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> R) -> R {
        look(&mut self.state.lock().unwrap().objects)
    }
}

fn answer(request: Request, state: &Mutex<State>) -> Answer {
    let (method, path) = (request.method.as_str(), request.target);
    assert_authorized(method, &request.headers, &request.body);
    let mut state = state.lock().unwrap();
    let line = format!("{method} {path}");
    let refused = state.rule.as_ref().and_then(|rule| rule(&line));
    state.log.push(line);
    match (refused, method) {
        (Some(status), _) => (status, Vec::new()),
        (None, "PUT") => {
            state.objects.insert(path, request.body);
            ("200 OK", Vec::new())
        }
        (None, _) => match state.objects.get(&path) {
            Some(object) => ("200 OK", object.clone()),
            None => ("404 Not Found", Vec::new()),
        },
    }
}

fn assert_authorized(method: &str, headers: &BTreeMap<String, String>, body: &[u8]) {
    let authorization = &headers["authorization"];
    match authorization.split_once(' ').unwrap().0 {
        "AWS4-HMAC-SHA256" => {
            let sent = Sha256::digest(body);
            let sent: String = sent.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(headers["x-amz-content-sha256"], sent);
            let day = &headers["x-amz-date"][..8];
            let scope = format!("Credential=key-id/{day}/eu-test-1/s3/aws4_request,");
            assert!(authorization.contains(&scope), "{authorization}");
            let names = "SignedHeaders=host;x-amz-content-sha256;x-amz-date,";
            assert!(authorization.contains(names), "{authorization}");
        }
        "SharedKey" => {
            assert!(
                authorization.starts_with("SharedKey account:"),
                "{authorization}"
            );
            assert!(headers.contains_key("x-ms-date") && headers.contains_key("x-ms-version"));
            let kind = headers.get("x-ms-blob-type").map(String::as_str);
            assert_eq!(kind, (method == "PUT").then_some("BlockBlob"));
        }
        other => panic!("{other}"),
    }
}

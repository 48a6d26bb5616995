//! The OCI image-spec's own JSON Schemas.

use std::io::Write as _;
use std::process::Command;
use std::process::Stdio;

use serde_json::Value;

use super::tools;

/// Reads `{"SCHEMA": [document, …]}` and prints what is wrong. The schemas refer to each other by their names in
/// directories that change with the `id` of what is around: the name is what counts.
const VALIDATE: &str = r#"
import json, pathlib, sys, warnings
warnings.simplefilter("ignore")
from jsonschema import Draft4Validator, RefResolver
schemas = {path.name: json.loads(path.read_text()) for path in pathlib.Path(sys.argv[1]).glob("*.json")}
handlers = {"https": lambda url: schemas[url.rsplit("/", 1)[1]]}
for name, documents in json.load(sys.stdin).items():
    schema = schemas[name]
    resolver = RefResolver(schema["id"], schema, handlers=handlers)
    validator = Draft4Validator(schema, resolver=resolver)
    for document in documents:
        for error in validator.iter_errors(document):
            print(f"{name}: {error.json_path}: {error.message}")
"#;

/// Holds documents against the schema of that name in `testdata/image-spec`.
#[track_caller]
pub(crate) fn assert_valid(schema: &str, documents: &[Value]) {
    // The package's command; its library belongs to Debian's own Python, and to no other that is there.
    tools::find("jsonschema");
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", VALIDATE])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/image-spec"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = python.stdin.take().unwrap();
    let documents = serde_json::json!({ schema: documents });
    stdin.write_all(documents.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
}

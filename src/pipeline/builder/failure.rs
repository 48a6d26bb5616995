//! What went wrong on a daemon, as the user is told of what goes wrong here: at the instruction.

use rbuild_llb::Diagnostic;
use rbuild_llb::Op;
use rbuild_llb::definition::PrunedDefinition;

use super::Steps;
use crate::buildkit::EngineError;
use crate::buildkit::HereError;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::outcome::StepFailure;
use crate::pipeline::failure::has_no_network;

/// What BuildKit says of a process that failed (solver/llbsolver/ops/exec.go), then how.
const FAILED: &str = "did not complete successfully: ";
/// What it and older ones end with, then the number (executor/runcexecutor).
const EXIT_CODE: &str = "exit code: ";

/// An error that is of no step.
pub(super) fn outside(error: EngineError) -> BuildError {
    match error {
        EngineError::Cancelled => BuildError::interrupted(),
        EngineError::Missing { capability, .. } => {
            let hint = format!("it lacks `{capability}`: use a newer BuildKit, or build here");
            BuildError::new(ErrorKind::Environment, error).hint(hint)
        }
        EngineError::Here(HereError::Changed { .. }) => BuildError::new(ErrorKind::Step, error)
            .hint("build again once nothing writes to it, or add it to `.dockerignore`"),
        EngineError::Failed { .. } => BuildError::new(ErrorKind::Step, error),
        error => BuildError::new(ErrorKind::Environment, error),
    }
}

/// An error during a build: of the step whose op failed, if one did.
pub(super) fn inside(
    error: EngineError,
    steps: &Steps,
    definition: &PrunedDefinition,
) -> BuildError {
    let EngineError::Failed {
        message,
        op: Some(op),
    } = &error
    else {
        return outside(error);
    };
    let Some(vertex) = steps.get(op).and_then(|step| definition.get(step)) else {
        return outside(error);
    };
    let span = vertex.meta.spans.first();
    let missing = not_there(message).map(|path| format!("`{path}` is not there to copy"));
    match (&vertex.op, ended(message), span) {
        (Op::Exec(_), Some(ended), _) => BuildError::step(StepFailure {
            vertex: op.clone(),
            name: vertex.meta.name.clone(),
            ended,
            span: span.cloned(),
            offline: has_no_network(vertex),
            enterable: false,
        }),
        (_, _, Some(span)) => {
            let message = missing.unwrap_or_else(|| message.clone());
            BuildError {
                kind: ErrorKind::Step,
                ..BuildError::request(vec![Diagnostic::error(message, span.clone(), "")])
            }
        }
        _ => outside(error),
    }
}

/// How a step's process ended, in the words that are used here, if it is that what failed.
fn ended(message: &str) -> Option<String> {
    let code = message.rsplit_once(EXIT_CODE).map(|(_, code)| code);
    match code.and_then(|code| code.parse::<u32>().ok()) {
        Some(code) => Some(format!("exit code {code}")),
        None => message
            .rsplit_once(FAILED)
            .map(|(_, ended)| ended.to_owned()),
    }
}

/// The path that a copy did not find: BuildKit says so of the checksum that it has of everything that is copied, and names
/// the file system by an id that means nothing to anybody else.
pub(super) fn not_there(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("failed to calculate checksum of ref ")?;
    let (_, path) = rest.strip_suffix("\": not found")?.split_once('"')?;
    Some(path)
}

/// Tests that failed, and what that held back.
#[derive(Default)]
pub(super) struct Failures {
    pub(super) tests: Vec<String>,
    pub(super) held: Vec<String>,
    /// Why the first did.
    pub(super) first: Option<BuildError>,
}

impl Failures {
    pub(super) fn into_error(self) -> Option<BuildError> {
        let error = self.first?;
        Some(crate::pipeline::deliver::tests_failed(
            error,
            &self.tests,
            &self.held,
        ))
    }
}

#[cfg(test)]
mod t {
    use std::sync::Arc;

    use rbuild_llb::Definition;
    use rbuild_llb::Edge;
    use rbuild_llb::Platform;
    use rbuild_llb::SourceFile;
    use rbuild_llb::Span;
    use rbuild_llb::Vertex;
    use rbuild_llb::config::ImageConfig;
    use rbuild_llb::definition::Output;
    use rbuild_llb::definition::VertexMeta;

    use super::*;

    #[test]
    fn a_process_failed_or_something_else() {
        for (message, want) in [
            (
                "process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
                Some("exit code 1"),
            ),
            (
                "process \"x\" did not complete successfully: cannot allocate memory",
                Some("cannot allocate memory"),
            ),
            // docker 20.10
            (
                "executor failed running [/bin/sh -c x]: exit code: 7",
                Some("exit code 7"),
            ),
            (
                "executor failed running [x]: network bridge not found",
                None,
            ),
        ] {
            assert_eq!(ended(message).as_deref(), want, "{message}");
        }
    }

    #[test]
    fn what_failed_there_is_told_where_it_is_written() {
        let file = Arc::new(SourceFile {
            name: "Dockerfile".into(),
            text: "COPY --from=a /x /\n".into(),
            language: "Dockerfile",
        });
        let platform = Platform::new("linux", "amd64", "");
        let mut definition = Definition::new();
        let merge = definition.add(Vertex {
            op: Op::Merge,
            inputs: Vec::new(),
            platform: platform.clone(),
            meta: VertexMeta {
                spans: vec![Span::new(&file, 0..18)],
                ..VertexMeta::default()
            },
        });
        definition.outputs.push(Output {
            name: String::new(),
            platform,
            root: Some(Edge::of(merge)),
            config: ImageConfig::default(),
        });
        let steps = Steps::from([("sha256:1".to_owned(), merge)]);
        let failed = |message: &str, op: &str| {
            let error = EngineError::Failed {
                message: message.to_owned(),
                op: Some(op.to_owned()),
            };
            inside(error, &steps, &definition.clone().prune())
        };
        // As BuildKit 0.29 says it.
        let message = "failed to compute cache key: failed to calculate checksum of ref o2s::k9: \"/x\": not found";
        let error = failed(message, "sha256:1");
        assert_eq!(error.kind, ErrorKind::Step);
        assert_eq!(error.diagnostics[0].message, "`/x` is not there to copy");
        assert_eq!(
            failed("disk full", "sha256:1").diagnostics[0].message,
            "disk full"
        );
        assert_eq!(failed("disk full", "sha256:2").to_string(), "disk full");
    }
}

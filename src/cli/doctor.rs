//! `rbuild doctor`: what this machine can do for builds, and what would mend the rest.

use serde_json::json;

use super::Session;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::Isolation;
use crate::request::Settings;
use crate::request::Stacker;
use crate::sandbox;
use crate::sandbox::Report;
use crate::sandbox::Rung;
use crate::sandbox::State;

/// What to print.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct DoctorFlags {
    /// Print JSON
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// One object
    Json,
}

/// Tries things out, in this process, which has one thread.
pub(crate) fn run(session: &Session, flags: &DoctorFlags) -> Result<(), BuildError> {
    let settings = &session.settings;
    let report = sandbox::probe(&sandbox::Settings {
        ca: settings.ca.clone(),
        temp_dir: settings.temp_dir.clone(),
        store: settings.root.clone(),
        overlay: None,
        chroot: settings.isolation == Isolation::Chroot,
        nested: settings.nested_namespaces,
        foreign: sandbox::Foreign {
            platforms: Vec::new(),
            chosen: settings.emulators.chosen.clone(),
            path: settings.emulators.path.clone(),
        },
    });
    let text = match flags.format {
        None => text(&report, settings),
        Some(Format::Json) => json(&report, settings),
    };
    super::print(text.as_bytes())?;
    match report.rung {
        Rung::Full | Rung::Single | Rung::Chroot => Ok(()),
        Rung::None => {
            let error = anyhow::anyhow!("no RUN step can run here: {}", report.reason());
            let error = BuildError::new(ErrorKind::Environment, error);
            Err(match report.fix() {
                Some(fix) => error.hint(fix),
                None => error,
            })
        }
    }
}

/// The stacker that builds take here.
fn stacker(report: &Report, settings: &Settings) -> Option<&'static str> {
    let overlay = match settings.stacker {
        Some(stacker) => stacker == Stacker::Overlay,
        None => report.stacks,
    };
    match (report.rung, overlay) {
        (Rung::None, _) => None,
        (Rung::Full | Rung::Single, true) => Some("overlay"),
        (Rung::Full | Rung::Single | Rung::Chroot, _) => Some("link"),
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Good => "ok",
        State::Limited => "limited",
        State::Missing => "missing",
    }
}

fn json(report: &Report, settings: &Settings) -> String {
    let findings = report.findings.iter().map(|finding| {
        json!({
            "what": finding.what,
            "state": state(finding.state),
            "fix": finding.fix,
        })
    });
    let (rung, isolation) = match report.rung {
        Rung::Full => (1, "namespaces"),
        Rung::Single => (2, "namespaces"),
        Rung::Chroot => (3, "chroot"),
        Rung::None => (3, "none"),
    };
    let text = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store": settings.root,
        "rung": rung,
        "isolation": isolation,
        "stacker": stacker(report, settings),
        "network": report.network(),
        "findings": findings.collect::<Vec<_>>(),
        "fix": report.fix(),
    });
    format!("{text:#}\n")
}

fn text(report: &Report, settings: &Settings) -> String {
    let rung = match report.rung {
        Rung::Full => "rung 1: steps run with ranges of user and group ids",
        Rung::Single => "rung 2: steps run with one user and group id",
        Rung::Chroot => "rung 3: steps run with chroot(2) alone",
        Rung::None => "rung 3: steps do not run; images of FROM and COPY alone can be built",
    };
    let mut text = format!(
        "rbuild {}\nstore {}\n{rung}\n",
        env!("CARGO_PKG_VERSION"),
        settings.root.display()
    );
    if let Some(stacker) = stacker(report, settings) {
        text.push_str(&format!(
            "stacker {stacker}, network {}\n",
            report.network()
        ));
    }
    for finding in &report.findings {
        text.push_str(&format!("  {:<8}{}\n", state(finding.state), finding.what));
        for line in finding.fix.iter().flat_map(|fix| fix.lines()) {
            text.push_str(&format!("          {line}\n"));
        }
    }
    text
}

#[cfg(test)]
mod t {
    use super::*;
    use crate::cli::config;
    use crate::cli::env::Env;
    use crate::cli::flags::GlobalFlags;
    use crate::sandbox::Finding;
    use snapbox::assert_data_eq;
    use snapbox::str;

    #[test]
    fn says_what_and_how_to_mend_it() {
        let env = Env::of([("RBUILD_ROOT", "/store")]);
        let (settings, _) = config::settings(&GlobalFlags::default(), &env).unwrap();
        let finding = |what: &str, state, fix: Option<&str>| Finding {
            what: what.into(),
            state,
            fix: fix.map(str::to_owned),
        };
        let report = Report {
            rung: Rung::Single,
            stacks: false,
            uplink: false,
            findings: vec![
                finding("Linux 6.12", State::Good, None),
                finding(
                    "no ids in /etc/subuid",
                    State::Limited,
                    Some("add a line:\nme:100000:65536"),
                ),
            ],
        };
        let shown = text(&report, &settings);
        let shown = shown.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        assert_data_eq!(
            shown,
            str![[r#"
rbuild VERSION
store /store
rung 2: steps run with one user and group id
stacker link, network host
  ok      Linux 6.12
  limited no ids in /etc/subuid
          add a line:
          me:100000:65536

"#]]
        );
        let read: serde_json::Value = serde_json::from_str(&json(&report, &settings)).unwrap();
        assert_eq!(
            [
                &read["rung"],
                &read["stacker"],
                &read["findings"][1]["state"],
                &read["fix"]
            ],
            [
                &json!(2),
                &json!("link"),
                &json!("limited"),
                &json!("add a line:\nme:100000:65536")
            ]
        );
    }
}

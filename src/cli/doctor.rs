//! `rbuild doctor`: what this machine can do for builds, and what would mend the rest.

use super::Session;
use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::request::Settings;
use crate::sandbox;
use crate::sandbox::Report;
use crate::sandbox::Rung;
use crate::sandbox::State;

/// Tries things out, in this process, which has one thread.
pub(crate) fn run(session: &Session) -> Result<(), BuildError> {
    let settings = &session.settings;
    let report = sandbox::probe(&sandbox::Settings {
        ca: settings.ca.clone(),
        temp_dir: settings.temp_dir.clone(),
        store: settings.root.clone(),
        overlay: None,
    });
    super::print(text(&report, settings).as_bytes())?;
    match report.rung {
        Rung::Full | Rung::Single => Ok(()),
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

fn text(report: &Report, settings: &Settings) -> String {
    let rung = match report.rung {
        Rung::Full => "steps run with ranges of user and group ids",
        Rung::Single => "steps run with one user and group id",
        Rung::None => "steps do not run; images of FROM and COPY alone can be built",
    };
    let mut text = format!(
        "rbuild {}\nstore {}\n{rung}\n",
        env!("CARGO_PKG_VERSION"),
        settings.root.display()
    );
    for finding in &report.findings {
        let state = match finding.state {
            State::Good => "ok",
            State::Limited => "limited",
            State::Missing => "missing",
        };
        text.push_str(&format!("  {state:<8}{}\n", finding.what));
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
steps run with one user and group id
  ok      Linux 6.12
  limited no ids in /etc/subuid
          add a line:
          me:100000:65536

"#]]
        );
    }
}

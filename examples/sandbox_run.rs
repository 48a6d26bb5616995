//! Runs a command in a directory as root file system: `sandbox_run [OPTIONS] LOWER... -- COMMAND...`.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use rbuild::sandbox;
use rbuild::sandbox::Exit;
use rbuild::sandbox::Mount;
use rbuild::sandbox::MountSource;
use rbuild::sandbox::Network;
use rbuild::sandbox::Root;
use rbuild::sandbox::SandboxError;
use rbuild::sandbox::Security;
use rbuild::sandbox::Settings;
use rbuild::sandbox::Step;
use rbuild::sandbox::Stream;
use rbuild::sandbox::Ulimit;
use rbuild_llb::cancel::CancelToken;

const TROUBLE: u8 = 3;

#[allow(
    clippy::disallowed_methods,
    reason = "an example is its own command line"
)]
fn main() -> ExitCode {
    if let Some(code) = sandbox::zygote_main_if_asked(std::env::args_os()) {
        return code;
    }
    match run(std::env::args().skip(1)) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            let hint = e.hint();
            let code = e.exit_code();
            let mut message = format!("error: {e}");
            let mut source = std::error::Error::source(&e);
            while let Some(e) = source {
                message += &format!(": {e}");
                source = e.source();
            }
            if let Some(hint) = hint {
                message += &format!("\nhint: {hint}");
            }
            _ = writeln!(std::io::stderr(), "{message}");
            ExitCode::from(code.map_or(TROUBLE, |code| code as u8))
        }
    }
}

/// A step and how often to run it.
struct Request {
    step: Step,
    settings: Settings,
    times: usize,
    threads: usize,
    probe: bool,
    timing: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Request {
    let mut request = Request {
        step: Step {
            root: Root {
                lowers: Vec::new(),
                upper: None,
                work: PathBuf::new(),
            },
            mounts: Vec::new(),
            args: Vec::new(),
            env: vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            network: Network::Host,
            security: Security::Sandbox,
            hostname: String::new(),
            hosts: Vec::new(),
            ulimits: Vec::new(),
            stdin: None,
        },
        settings: Settings {
            ca: None,
            temp_dir: "/tmp".into(),
            store: "/tmp".into(),
        },
        times: 1,
        threads: 1,
        probe: false,
        timing: false,
    };
    while let Some(arg) = args.next() {
        let step = &mut request.step;
        if arg == "--" {
            break;
        }
        if !arg.starts_with('-') {
            step.root.lowers.push(arg.into());
            continue;
        }
        match arg.as_str() {
            "--insecure" => step.security = Security::Insecure,
            "--no-network" => step.network = Network::None,
            "--probe" => request.probe = true,
            "--timing" => request.timing = true,
            option => {
                let value = args.next().expect("an option has a value");
                let pair = |c| value.split_once(c).expect("two parts");
                match option {
                    "--bind" => step.mounts.push(Mount {
                        dest: pair(':').1.into(),
                        source: MountSource::Bind {
                            path: pair(':').0.into(),
                            subpath: PathBuf::new(),
                            readonly: false,
                        },
                    }),
                    "--bind-part" => {
                        let (path, rest) = pair(':');
                        let (subpath, dest) = rest.split_once(':').expect("three parts");
                        step.mounts.push(Mount {
                            dest: dest.into(),
                            source: MountSource::Bind {
                                path: path.into(),
                                subpath: subpath.into(),
                                readonly: true,
                            },
                        });
                    }
                    "--layer" => step.mounts.push(Mount {
                        dest: pair(':').1.into(),
                        source: MountSource::Overlay {
                            lowers: vec![pair(':').0.into()],
                            upper: None,
                            work: PathBuf::new(),
                            subpath: PathBuf::new(),
                        },
                    }),
                    "--layer-part" => {
                        let (path, rest) = pair(':');
                        let (subpath, dest) = rest.split_once(':').expect("three parts");
                        step.mounts.push(Mount {
                            dest: dest.into(),
                            source: MountSource::Overlay {
                                lowers: vec![path.into()],
                                upper: None,
                                work: PathBuf::new(),
                                subpath: subpath.into(),
                            },
                        });
                    }
                    "--tmpfs" => step.mounts.push(Mount {
                        dest: value.into(),
                        source: MountSource::Tmpfs { size: 1 << 20 },
                    }),
                    "--file" => step.mounts.push(Mount {
                        dest: pair('=').0.into(),
                        source: MountSource::File {
                            data: pair('=').1.into(),
                            mode: 0o400,
                            uid: 0,
                            gid: 0,
                        },
                    }),
                    "--ca" => request.settings.ca = Some(value.into()),
                    "--cwd" => step.cwd = value.into(),
                    "--env" => step.env.push(value.into()),
                    "--host" => step
                        .hosts
                        .push((pair('=').0.to_owned(), pair('=').1.to_owned())),
                    "--hostname" => step.hostname = value,
                    "--stdin" => step.stdin = Some(value.into()),
                    "--store" => request.settings.store = value.into(),
                    "--threads" => request.threads = value.parse().expect("a number"),
                    "--times" => request.times = value.parse().expect("a number"),
                    "--ulimit" => {
                        let (soft, hard) = pair('=').1.split_once(':').expect("soft:hard");
                        step.ulimits.push(Ulimit {
                            name: pair('=').0.to_owned(),
                            soft: soft.parse().expect("a number"),
                            hard: hard.parse().expect("a number"),
                        });
                    }
                    "--upper" => step.root.upper = Some(value.into()),
                    "--user" => {
                        let mut ids = value.split(':').map(|id| id.parse().expect("a number"));
                        step.uid = ids.next().expect("a user");
                        step.gid = ids.next().unwrap_or(step.uid);
                        step.groups = ids.collect();
                    }
                    "--work" => step.root.work = value.into(),
                    other => panic!("no option {other}"),
                }
            }
        }
    }
    request.step.args = args.map(Into::into).collect();
    request
}

fn run(args: impl Iterator<Item = String>) -> Result<u8, SandboxError> {
    let request = parse(args);
    let mut stdout = std::io::stdout();
    if request.probe {
        let report = sandbox::probe(&request.settings);
        _ = writeln!(stdout, "{report:#?}");
    }
    let began = Instant::now();
    let sandbox = sandbox::enter(&request.settings)?;
    let entered = began.elapsed();
    if request.probe {
        _ = writeln!(
            stdout,
            "{:?} {} {:?}",
            sandbox.rung(),
            sandbox.domain(),
            sandbox.remark()
        );
    }
    let cancel = CancelToken::new();
    sandbox::on_termination_signals(&cancel).expect("a thread can be started");
    let began = Instant::now();
    let one = |step: &Step| {
        sandbox.run(
            step,
            &mut |stream, bytes| {
                // A reader that has gone away is its own business.
                _ = match stream {
                    Stream::Stdout => std::io::stdout().write_all(bytes),
                    Stream::Stderr => std::io::stderr().write_all(bytes),
                };
                _ = std::io::stdout().flush();
            },
            &cancel,
        )
    };
    let exits: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..request.threads)
            .map(|thread| {
                let (request, one) = (&request, &one);
                scope.spawn(move || {
                    let mut last = Ok(Exit::Code(0));
                    for time in 0..request.times {
                        let mut step = request.step.clone();
                        // Each run needs directories of its own.
                        if request.times * request.threads > 1
                            && let Some(upper) = &step.root.upper
                        {
                            let upper = upper.join(format!("{thread}-{time}"));
                            step.root.work = upper.join("w");
                            std::fs::create_dir_all(upper.join("u")).expect("make an upper");
                            std::fs::create_dir_all(upper.join("w")).expect("make a work");
                            step.root.upper = Some(upper.join("u"));
                        }
                        last = one(&step);
                        if !matches!(last, Ok(Exit::Code(0))) {
                            break;
                        }
                    }
                    last
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .collect()
    });
    if request.timing {
        let each = began.elapsed() / (request.times as u32 * request.threads as u32);
        _ = writeln!(stdout, "enter {entered:?}, each step {each:?}");
    }
    let mut worst = 0;
    for exit in exits {
        worst = worst.max(match exit? {
            Exit::Code(code) => code as u8,
            Exit::Signal(signal) => 128 + signal as u8,
            Exit::OutOfMemory => 200,
        });
    }
    Ok(worst)
}

//! Runs a command with directories as its root file system; the sandbox's tests drive it.
//!
//! `cargo run --example sandbox_run -- --lower DIR [--upper DIR --work DIR] [OPTION...] COMMAND [ARG...]`
#![allow(clippy::print_stdout, reason = "an example is its own user interface")]
#![allow(clippy::print_stderr, reason = "an example is its own user interface")]

use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use rbuild::sandbox;
use rbuild::sandbox::Exit;
use rbuild::sandbox::Mount;
use rbuild::sandbox::MountSource;
use rbuild::sandbox::Network;
use rbuild::sandbox::Root;
use rbuild::sandbox::Sandbox;
use rbuild::sandbox::SandboxError;
use rbuild::sandbox::Security;
use rbuild::sandbox::Settings;
use rbuild::sandbox::Stdin;
use rbuild::sandbox::Step;
use rbuild::sandbox::Stream;
use rbuild::sandbox::Ulimit;
use rbuild_llb::cancel::CancelToken;
use rbuild_llb::op::Limits;

#[derive(Parser)]
struct Args {
    /// Show what works here.
    #[arg(long)]
    probe: bool,
    /// Without namespaces.
    #[arg(long)]
    chroot: bool,
    /// A directory that is the root as it is.
    #[arg(long)]
    root: Option<PathBuf>,
    /// Layers, bottom first.
    #[arg(long)]
    lower: Vec<PathBuf>,
    /// Where writes go.
    #[arg(long, requires = "work")]
    upper: Option<PathBuf>,
    /// An empty directory on the file system of `upper`.
    #[arg(long)]
    work: Option<PathBuf>,
    /// Nothing can be written to the root.
    #[arg(long)]
    readonly: bool,
    /// `type=bind|overlay|tmpfs|file,dst=PATH[,src=PATH][,sub=PATH][,data=TEXT][,ro=true]`
    #[arg(long, value_parser = mount)]
    mount: Vec<Mount>,
    /// `KEY=value`
    #[arg(
        long,
        default_value = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    )]
    env: Vec<OsString>,
    #[arg(long, default_value = "/")]
    cwd: PathBuf,
    /// uid, gid, supplementary gids
    #[arg(long, value_delimiter = ':', default_value = "0:0")]
    user: Vec<u32>,
    #[arg(long)]
    no_network: bool,
    /// The host's own network.
    #[arg(long)]
    host_network: bool,
    /// Say what the default network is.
    #[arg(long)]
    uplink: bool,
    #[arg(long)]
    insecure: bool,
    /// No user namespaces for the step.
    #[arg(long)]
    no_nested: bool,
    #[arg(long, default_value = "")]
    hostname: String,
    /// `name=address`
    #[arg(long, value_parser = host)]
    host: Vec<(String, String)>,
    /// `name=soft:hard`
    #[arg(long, value_parser = ulimit)]
    ulimit: Vec<Ulimit>,
    /// Bytes.
    #[arg(long)]
    memory: Option<u64>,
    #[arg(long)]
    cgroup_parent: Option<String>,
    #[arg(long)]
    stdin: Option<String>,
    /// Another process is process 1.
    #[arg(long)]
    init: bool,
    #[arg(long)]
    ca: Option<PathBuf>,
    #[arg(long, default_value = "/tmp")]
    store: PathBuf,
    /// Run it so many times at once.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// And each of them so many times, one after the other; then say how long one took.
    #[arg(long)]
    times: Option<usize>,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn mount(text: &str) -> Result<Mount, String> {
    let mut fields: BTreeMap<&str, &str> = text
        .split(',')
        .map(|field| {
            field
                .split_once('=')
                .ok_or(format!("`{field}` has no value"))
        })
        .collect::<Result<_, _>>()?;
    let mut take = |name| fields.remove(name).unwrap_or_default();
    let (dest, path, subpath) = (take("dst").into(), take("src").into(), take("sub").into());
    let source = match take("type") {
        "bind" => MountSource::Bind {
            path,
            subpath,
            readonly: take("ro") == "true",
        },
        "overlay" => MountSource::Overlay {
            lowers: vec![path],
            upper: None,
            work: PathBuf::new(),
            subpath,
        },
        "tmpfs" => MountSource::Tmpfs {
            size: 1 << 20,
            readonly: take("ro") == "true",
        },
        "file" => MountSource::File {
            data: take("data").into(),
            mode: 0o400,
            uid: 0,
            gid: 0,
        },
        other => return Err(format!("`{other}` is no type of mount")),
    };
    Ok(Mount { dest, source })
}

fn host(text: &str) -> Result<(String, String), String> {
    let (name, address) = text.split_once('=').ok_or("`name=address` is wanted")?;
    Ok((name.to_owned(), address.to_owned()))
}

fn ulimit(text: &str) -> Result<Ulimit, Box<dyn Error + Send + Sync>> {
    let (name, limits) = text.split_once('=').ok_or("`name=soft:hard` is wanted")?;
    let (soft, hard) = limits.split_once(':').ok_or("`name=soft:hard` is wanted")?;
    Ok(Ulimit {
        name: name.to_owned(),
        soft: soft.parse()?,
        hard: hard.parse()?,
    })
}

impl Args {
    fn step(&self) -> Step {
        Step {
            root: match &self.root {
                Some(path) => Root::Directory { path: path.clone() },
                None => Root::Overlay {
                    lowers: self.lower.clone(),
                    upper: self.upper.clone(),
                    work: self.work.clone().unwrap_or_default(),
                },
            },
            readonly: self.readonly,
            mounts: self.mount.clone(),
            args: self.command.clone(),
            env: self.env.clone(),
            cwd: self.cwd.clone(),
            uid: self.user[0],
            gid: self.user.get(1).copied().unwrap_or(self.user[0]),
            groups: self.user.get(2..).unwrap_or_default().to_vec(),
            network: match (self.no_network, self.host_network) {
                (true, _) => Network::None,
                (false, true) => Network::Host,
                (false, false) => Network::Default,
            },
            security: match self.insecure {
                true => Security::Insecure,
                false => Security::Sandbox,
            },
            hostname: self.hostname.clone(),
            hosts: self.host.clone(),
            ulimits: self.ulimit.clone(),
            stdin: match &self.stdin {
                Some(text) => Stdin::Data(text.clone().into_bytes()),
                None => Stdin::Null,
            },
            limits: Limits {
                memory: self.memory,
                cgroup_parent: self.cgroup_parent.clone(),
                ..Limits::default()
            },
            init: self.init,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "there is no `cli` here")]
fn main() -> ExitCode {
    if let Some(code) = sandbox::zygote_main_if_asked(std::env::args_os()) {
        return code;
    }
    let args = Args::parse();
    match run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("caused by: {error}");
                cause = error.source();
            }
            if let Some(hint) = error.hint() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.exit_code().unwrap_or(3))
        }
    }
}

fn run(args: &Args) -> Result<u8, SandboxError> {
    let settings = Settings {
        ca: args.ca.clone(),
        temp_dir: "/tmp".into(),
        store: args.store.clone(),
        overlay: None,
        chroot: args.chroot,
        nested: !args.no_nested,
        foreign: sandbox::Foreign::default(),
    };
    if args.probe {
        let report = sandbox::probe(&settings);
        println!("{:?}", report.rung);
        for finding in report.findings {
            println!("{:?}: {}", finding.state, finding.what);
            if let Some(fix) = finding.fix {
                println!("  fix: {fix}");
            }
        }
        return Ok(0);
    }
    let began = Instant::now();
    let sandbox = sandbox::enter(&settings)?;
    let entered = began.elapsed();
    let cancel = CancelToken::new();
    sandbox::on_termination_signals(&cancel).expect("a thread can be started");
    let began = Instant::now();
    let networked = !(args.no_network || args.host_network);
    sandbox.expect(args.threads * args.times.unwrap_or(1), networked);
    if args.uplink {
        println!("{:?}", sandbox.uplink(&cancel)?);
    }
    let exits: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|thread| {
                let (sandbox, cancel) = (&sandbox, &cancel);
                scope.spawn(move || run_times(args, thread, sandbox, cancel))
            })
            .collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    });
    if let Some(times) = args.times {
        let each = began.elapsed() / (times * args.threads) as u32;
        println!("entered in {entered:?}, {each:?} a step");
    }
    let mut code = 0;
    for exit in exits {
        code = code.max(match exit? {
            Exit::Code(code) => code as u8,
            Exit::Signal(signal) => 128 + signal as u8,
            Exit::OutOfMemory { .. } => 200,
        });
    }
    if let Some(remark) = sandbox.remark().filter(|_| code != 0) {
        eprintln!("hint: {remark}");
    }
    Ok(code)
}

fn run_times(
    args: &Args,
    thread: usize,
    sandbox: &Sandbox,
    cancel: &CancelToken,
) -> Result<Exit, SandboxError> {
    let mut exit = Exit::Code(0);
    for time in 0..args.times.unwrap_or(1) {
        let mut step = args.step();
        if let Root::Overlay {
            upper: Some(parent),
            work,
            ..
        } = &mut step.root
            && args.times.is_some()
        {
            // Each run needs directories of its own.
            let own = parent.join(format!("{thread}-{time}"));
            *work = own.join("work");
            *parent = own.join("upper");
            for dir in [parent, work] {
                std::fs::create_dir_all(dir).expect("a directory can be made");
            }
        }
        let mut output = |stream, bytes: &[u8]| {
            let written = match stream {
                Stream::Stdout => std::io::stdout().write_all(bytes),
                Stream::Stderr => std::io::stderr().write_all(bytes),
            };
            written
                .and_then(|()| std::io::stdout().flush())
                .expect("somebody reads");
        };
        exit = sandbox.run(&step, &mut output, cancel)?;
    }
    Ok(exit)
}

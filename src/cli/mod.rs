//! Argv and environment to a validated request; the only reader of either.
//!
//! `rbuild .` is `rbuild build .`: if the first word that is no flag names no command, the command is `build`, so
//! flags may stand before and after it as docker's users write them. A directory with the name of a command is
//! built as `./images`.

mod annotation;
mod bake;
mod build;
mod builder;
mod builders;
mod cache;
mod call;
mod completion;
mod config;
mod containers;
mod convert;
mod debug;
mod doctor;
mod env;
mod explain;
mod flags;
mod github;
mod images;
mod init;
mod later;
mod limits;
mod llb;
mod lock;
mod login;
mod output;
mod plan;
mod plans;
mod proxies;
mod registries;
mod reset;
mod run;
mod shell;
mod sources;
mod template;
mod usage;
mod values;

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::process::ExitCode;

use clap::Command;
use clap::CommandFactory as _;
use clap::FromArgMatches as _;
use clap::Parser;
use clap::Subcommand;

use crate::outcome::BuildError;
use crate::outcome::ErrorKind;
use crate::pipeline::durability;
use crate::request::Settings;
use crate::sandbox;
use crate::ui;
use crate::ui::Progress;
use crate::ui::Terminal;
use env::Env;
use flags::BuildFlags;
use flags::GlobalFlags;
use later::Later;
use proxies::DockerProxies;

/// Build container images from Dockerfiles, without root and without a daemon
#[derive(Debug, Parser)]
#[command(
    name = "rbuild",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    args_override_self = true
)]
struct Typed<C: Subcommand> {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: C,
}

type Cli = Typed<Cmd>;

/// The default command as if it were the only one: clap gives each command it knows a copy of each global flag, and with all
/// of them that is half of what an unchanged build computes.
#[derive(Debug, Subcommand)]
enum Alone {
    #[command(args_override_self = true)]
    Build(Box<BuildFlags>),
}

#[derive(Debug, Subcommand)]
enum Cmd {
    /// Build an image; the default command: `rbuild .`
    #[command(args_override_self = true)]
    Build(Box<BuildFlags>),
    /// Look for what is wrong with a Dockerfile, building nothing: `rbuild build --check`
    #[command(args_override_self = true)]
    Check(Later<Box<BuildFlags>>),
    /// Show what a build would do, as a tree, a graph or a picture, doing nothing
    #[command(args_override_self = true)]
    Plan(Later<Box<plan::PlanFlags>>),
    /// Say what the last build did about each step, and why it was not cached
    #[command(args_override_self = true)]
    Explain(Later<explain::ExplainFlags>),
    /// Build the targets of a bake file or compose file
    #[command(args_override_self = true)]
    Bake(Later<bake::BakeFlags>),
    /// Run the tests of a plan, all or those named: `rbuild test . unit`
    #[command(args_override_self = true)]
    Test(Later<Box<BuildFlags>>),
    /// List what a plan or Dockerfile has to build, and what can be chosen
    #[command(args_override_self = true)]
    Ls(Later<plans::ListFlags>),
    /// Write a first plan for the project in a directory
    Init(Later<init::InitFlags>),
    /// Print the JSON Schema of plans, or their reference
    Schema(Later<plans::SchemaFlags>),
    /// Write a Dockerfile as a plan, or a plan as a Dockerfile
    Convert(Later<convert::ConvertFlags>),
    /// Write down what tags, branches and URLs are now, for builds to go by
    Lock(Later<lock::LockFlags>),
    /// Ask anew what the sources in the lock file are
    Update(Later<lock::UpdateFlags>),
    /// List the images in rbuild's store
    Images(Later<images::ListFlags>),
    /// Give an image in the store another name
    Tag(Later<images::TagFlags>),
    /// Take names of images out of the store
    #[command(visible_alias = "rm")]
    Rmi(Later<images::RemoveFlags>),
    /// Print all that is known of images in the store
    Inspect(Later<images::InspectFlags>),
    /// Show the steps that made an image
    History(Later<images::HistoryFlags>),
    /// Bring images from registries into the store
    Pull(Later<images::PullFlags>),
    /// Send images of the store to registries
    Push(Later<images::PushFlags>),
    /// Write images of the store into an archive
    Save(Later<images::SaveFlags>),
    /// Bring the images of an archive into the store
    Load(Later<images::LoadFlags>),
    /// Check credentials for a registry, and keep them where docker does
    Login(Later<login::LoginFlags>),
    /// Forget the credentials for a registry
    Logout(Later<login::LogoutFlags>),
    /// Run a command in an image of the store
    Run(Later<Box<run::RunFlags>>),
    /// Enter what a failed step left: a shell there, or a command
    Shell(Later<shell::ShellFlags>),
    /// Print what a container of `run --detach` has written
    Logs(Later<containers::LogsFlags>),
    /// End containers of `run --detach`
    Stop(Later<containers::StopFlags>),
    /// BuildKit daemons that builds go to by name: list, create, inspect, rm, use
    Builder(Later<builder::BuilderFlags>),
    /// Say what this machine can do for builds, and what would mend the rest
    Doctor(Later<doctor::DoctorFlags>),
    /// Show what the store takes on the disk, and what for
    Du(Later<usage::DuFlags>),
    /// Remove caches that no image and no running build needs
    Prune(Later<usage::PruneFlags>),
    /// Remove the whole store: all images and caches
    Reset(Later<reset::ResetFlags>),
    /// Print what a shell completes rbuild's commands with: `source <(rbuild completion bash)`
    Completion(Later<completion::CompletionFlags>),
    /// Build what a step of a GitHub workflow asks for, as `action.yml` runs it: flags are in `INPUT_*`
    #[command(hide = true)]
    GithubAction,
    /// Look inside
    #[command(subcommand)]
    Debug(debug::DebugCommand),
}

/// What a subcommand has besides its own flags.
struct Session {
    settings: Settings,
    env: Env,
    /// Read when they are first wanted.
    docker_proxies: OnceCell<DockerProxies>,
    terminal: Terminal,
    /// Tars are not written there then.
    stdout_is_terminal: bool,
    /// `--debug`
    debug: bool,
    /// Flags that say how steps run on this machine.
    of_steps_here: Vec<&'static str>,
}

impl Session {
    /// What docker's config says of proxies, and once on standard error why it says nothing.
    fn docker_proxies(&self) -> &DockerProxies {
        self.docker_proxies.get_or_init(|| {
            let (proxies, remark) = proxies::of_docker(self.settings.docker_config.as_deref());
            if let Some(remark) = remark {
                ui::remark(&remark, self.terminal);
            }
            proxies
        })
    }
}

/// A failure that is not told yet; `progress`, finished, has the last output of a failed step.
struct Failed {
    error: BuildError,
    progress: Option<Progress>,
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        Self {
            error,
            progress: None,
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    // Steps are started by a process that is this program again, before it has done anything else.
    if let Some(code) = sandbox::zygote_main_if_asked(env::argv()) {
        return code;
    }
    if let [_, argument, root, gc] = env::argv().as_slice()
        && argument == durability::ARGUMENT
    {
        return durability::sync(root.as_ref(), &gc.to_string_lossy());
    }
    let env = Env::read();
    let no_color = env.text("NO_COLOR").is_some();
    let dumb = env.text("TERM").as_deref() == Some("dumb");
    let terminal = Terminal::of_stderr(no_color, dumb);
    let cli = match parse(env::argv()) {
        Ok(cli) => cli,
        Err(error) => return usage(&error, terminal),
    };
    dispatch(cli, env, terminal).unwrap_or_else(|failed| {
        ui::failure(&failed.error, failed.progress.as_ref(), terminal);
        failed.error.kind.exit_code().into()
    })
}

/// What was asked for.
fn parse(argv: Vec<OsString>) -> Result<Cli, clap::Error> {
    match parse_build(&argv) {
        Some(cli) => Ok(cli),
        None => parse_as(argv, Cli::command()),
    }
}

/// A build that nothing is wrong with. Who knows all commands has to say what is wrong, and to help.
fn parse_build(argv: &[OsString]) -> Option<Cli> {
    let command = Typed::<Alone>::command();
    let word = first_word(argv, &command).map(|at| &argv[at]);
    if word.is_some_and(|word| word != "build" && may_be_command(word)) {
        return None;
    }
    let Typed { global, command } = parse_as(argv.to_vec(), command).ok()?;
    let Alone::Build(flags) = command;
    let command = Cmd::Build(flags);
    Some(Cli { global, command })
}

/// Whether it looks like the name of a command.
fn may_be_command(word: &OsStr) -> bool {
    let mut bytes = word.as_encoded_bytes().iter();
    bytes.all(|byte| byte.is_ascii_lowercase() || *byte == b'-')
}

fn parse_as<C: Subcommand>(
    argv: Vec<OsString>,
    mut command: Command,
) -> Result<Typed<C>, clap::Error> {
    let argv = arrange(argv, &command);
    let mut matches = command.try_get_matches_from_mut(argv)?;
    Typed::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// The names of all commands.
fn commands() -> Vec<String> {
    let command = Cli::command();
    let names = command.get_subcommands().map(|c| c.get_name().to_owned());
    names.collect()
}

/// Help and version are data; what is wrong with the flags is talk.
fn usage(error: &clap::Error, terminal: Terminal) -> ExitCode {
    if !error.use_stderr() {
        return match print(error.render().to_string().as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => error.kind.exit_code().into(),
        };
    }
    let text = error.render();
    match terminal.color {
        true => ui::say(&text.ansi().to_string()),
        false => ui::say(&text.to_string()),
    }
    ErrorKind::Request.exit_code().into()
}

fn dispatch(cli: Cli, env: Env, terminal: Terminal) -> Result<ExitCode, Failed> {
    let (settings, remarks) = config::settings(&cli.global, &env)
        .map_err(|problem| BuildError::request(vec![problem]))?;
    for remark in &remarks {
        ui::remark(remark, terminal);
    }
    let session = Session {
        settings,
        env,
        docker_proxies: OnceCell::new(),
        terminal,
        stdout_is_terminal: ui::stdout_is_terminal(),
        debug: cli.global.debug,
        of_steps_here: cli.global.of_steps_here(),
    };
    match cli.command {
        Cmd::Build(flags) => return build::run(&flags, &session),
        Cmd::Check(Later(mut flags)) => {
            flags.check = true;
            return build::run(&flags, &session);
        }
        Cmd::Plan(Later(flags)) => plan::run(&flags, &session)?,
        Cmd::Explain(Later(flags)) => explain::run(&flags, &session)?,
        Cmd::Bake(Later(flags)) => return bake::run(&flags, &session),
        Cmd::Test(Later(flags)) => return plans::test(&flags, &session),
        Cmd::Ls(Later(flags)) => plans::list(&flags, &session)?,
        Cmd::Init(Later(flags)) => init::run(&flags)?,
        Cmd::Schema(Later(flags)) => plans::schema(&flags)?,
        Cmd::Convert(Later(flags)) => return convert::run(&flags, &session),
        Cmd::Lock(Later(flags)) => lock::lock(&flags, &session)?,
        Cmd::Update(Later(flags)) => lock::update(&flags, &session)?,
        Cmd::Images(Later(flags)) => images::list(&flags, &session)?,
        Cmd::Tag(Later(flags)) => images::tag(&flags, &session)?,
        Cmd::Rmi(Later(flags)) => images::remove(&flags, &session)?,
        Cmd::Inspect(Later(flags)) => images::inspect(&flags, &session)?,
        Cmd::History(Later(flags)) => images::history(&flags, &session)?,
        Cmd::Pull(Later(flags)) => images::pull(&flags, &session)?,
        Cmd::Push(Later(flags)) => images::push(&flags, &session)?,
        Cmd::Save(Later(flags)) => images::save(&flags, &session)?,
        Cmd::Load(Later(flags)) => images::load(&flags, &session)?,
        Cmd::Login(Later(flags)) => login::login(&flags, &session)?,
        Cmd::Logout(Later(flags)) => login::logout(&flags, &session)?,
        Cmd::Du(Later(flags)) => usage::du(&flags, &session)?,
        Cmd::Prune(Later(flags)) => usage::prune(&flags, &session)?,
        Cmd::Reset(Later(flags)) => reset::run(&flags, &session)?,
        Cmd::Run(Later(flags)) => return run::run(&flags, &session),
        Cmd::Shell(Later(flags)) => return Ok(shell::run(&flags, &session)?),
        Cmd::Logs(Later(flags)) => containers::logs(&flags, &session)?,
        Cmd::Stop(Later(flags)) => return Ok(containers::stop(&flags, &session)?),
        Cmd::Builder(Later(flags)) => builder::run(&flags, &session)?,
        Cmd::Doctor(Later(flags)) => doctor::run(&session, &flags)?,
        Cmd::Completion(Later(flags)) => completion::print(&flags)?,
        Cmd::GithubAction => return github::run(&session),
        Cmd::Debug(command) => return debug::run(&command, &session),
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes data to standard output.
fn print(bytes: &[u8]) -> Result<(), BuildError> {
    ui::data(bytes).map_err(|error| {
        let error = anyhow::Error::new(error).context("cannot write to standard output");
        BuildError::new(ErrorKind::Environment, error)
    })
}

/// Writes text of which parts are what images say. Programs get it as it is, people what cannot drive their terminal.
fn print_text(text: &str, session: &Session) -> Result<(), BuildError> {
    match session.stdout_is_terminal {
        true => print(ui::harmless(text).as_bytes()),
        false => print(text.as_bytes()),
    }
}

/// Puts the command first: the first word that is neither a flag nor a flag's value, or `build`.
fn arrange(mut argv: Vec<OsString>, command: &Command) -> Vec<OsString> {
    let is_called = |command: &Command, word: &OsStr| {
        command.get_name() == word || command.get_all_aliases().any(|alias| alias == word)
    };
    // clap adds `help` when it parses.
    let is_command =
        |word: &OsStr| word == "help" || command.get_subcommands().any(|c| is_called(c, word));
    match first_word(&argv, command) {
        Some(at) if is_command(&argv[at]) => argv[1..=at].rotate_right(1),
        None if argv.len() < 2 || argv.iter().any(|a| is_about_the_program(a)) => {}
        _ => argv.insert(1, "build".into()),
    }
    argv
}

fn is_about_the_program(arg: &OsStr) -> bool {
    ["-h", "--help", "-V", "--version"]
        .iter()
        .any(|a| arg == *a)
}

/// Where the first word is. Before the command is known, flags are taken for those of `build`.
fn first_word(argv: &[OsString], command: &Command) -> Option<usize> {
    let build = command.find_subcommand("build");
    let of_build = build.into_iter().flat_map(Command::get_arguments);
    let flags: Vec<&clap::Arg> = command.get_arguments().chain(of_build).collect();
    let takes_value = |arg: &clap::Arg| {
        arg.get_action().takes_values() && !arg.is_require_equals_set() && !arg.is_positional()
    };
    let value_follows = |arg: &str| match arg.strip_prefix("--") {
        Some(name) => {
            let known = flags.iter().find(|a| a.get_long() == Some(name));
            known.is_some_and(|arg| takes_value(arg))
        }
        None => {
            // In `-qf`, the first flag that takes a value has the rest of the word for it, if there is a rest.
            let letters = &arg[1..];
            let first = letters.char_indices().find(|(_, c)| {
                let known = flags.iter().find(|a| a.get_short() == Some(*c));
                known.is_some_and(|arg| takes_value(arg))
            });
            first.is_some_and(|(at, c)| at + c.len_utf8() == letters.len())
        }
    };
    let mut at = 1;
    while at < argv.len() {
        let text = argv[at].to_string_lossy();
        match &*text {
            // What follows are words that are no commands.
            "--" => return None,
            "-" => return Some(at),
            flag if flag.starts_with('-') => at += if value_follows(flag) { 2 } else { 1 },
            _ => return Some(at),
        }
    }
    None
}

#[cfg(test)]
mod t {
    use super::*;

    #[test]
    fn the_command_may_stand_anywhere_or_be_left_out() {
        let command = Cli::command();
        for (given, want) in [
            (".", "build ."),
            ("build .", "build ."),
            ("-f rm app", "build -f rm app"),
            ("rm -f app", "rm -f app"),
            ("-t app .", "build -t app ."),
            ("-t images .", "build -t images ."),
            ("-qt images .", "build -qt images ."),
            ("-tapp build .", "build -tapp ."),
            ("--pull build .", "build --pull ."),
            (
                "--tag=x --root /r debug dump-llb .",
                "debug --tag=x --root /r dump-llb .",
            ),
            ("./build", "build ./build"),
            ("-- build", "build -- build"),
            ("-f - -", "build -f - -"),
            ("-", "build -"),
            ("--pull", "build --pull"),
            ("--help", "--help"),
            ("build --help", "build --help"),
            ("-V", "-V"),
            ("help build", "help build"),
        ] {
            let argv = ["rbuild"].into_iter().chain(given.split(' '));
            let argv = arrange(argv.map(OsString::from).collect(), &command);
            let got: Vec<_> = argv[1..].iter().map(|a| a.to_string_lossy()).collect();
            assert_eq!(got.join(" "), want, "{given}");
        }
        assert_eq!(arrange(vec!["rbuild".into()], &command).len(), 1);
    }

    #[test]
    fn a_build_is_understood_alike_with_and_without_the_other_commands() {
        let as_argv = |given: &str| -> Vec<OsString> {
            let words = ["rbuild"].into_iter().chain(given.split(' '));
            words.map(OsString::from).collect()
        };
        for given in [
            ".",
            "build app",
            "build images",
            "--root /r -D build -t a -t b --progress=plain --progress tty dir/",
            "-f rm ./app",
            "-qt images . --set a=1 web",
            "--stacker link --nested-namespaces ../x --emulator arm64=/q",
            "-- build",
        ] {
            let alone = parse_build(&as_argv(given)).unwrap_or_else(|| panic!("{given}"));
            let all: Cli = parse_as(as_argv(given), Cli::command()).unwrap();
            assert_eq!(format!("{alone:?}"), format!("{all:?}"), "{given}");
        }
        for given in [
            "images",
            "rm -f app",
            "help build",
            "build --help",
            "-V",
            "--no-cahe .",
            "app",
        ] {
            assert!(parse_build(&as_argv(given)).is_none(), "{given}");
        }
    }

    #[test]
    fn every_command_looks_like_one() {
        let command = Cli::command();
        for command in command.get_subcommands() {
            for name in std::iter::once(command.get_name()).chain(command.get_all_aliases()) {
                assert!(may_be_command(name.as_ref()), "{name}");
            }
        }
    }

    #[test]
    fn clap_finds_the_definitions_sound() {
        Cli::command().debug_assert();
        Typed::<Alone>::command().debug_assert();
    }

    #[test]
    fn unknown_flags_get_a_suggestion() {
        let argv = ["rbuild", ".", "--no-cahe"].map(OsString::from);
        let error = parse(argv.to_vec()).unwrap_err();
        assert!(error.use_stderr());
        assert!(error.to_string().contains("'--no-cache'"), "{error}");
    }
}

//! What can stand in an `rbuild.toml`. The doc comments are what the reference and the JSON Schema say.

use rbuild_llb::Span;

use crate::read::At;
use crate::read::List;
use crate::read::Map;
use crate::read::Need;
use crate::read::Read;
use crate::read::Reader;
use crate::read::Shape;
use crate::read::Text;
use crate::read::kinds;
use crate::read::table;

mod forms;

pub(crate) use forms::ArgType;
pub(crate) use forms::INHERITED;
pub(crate) use forms::ModeRule;
pub(crate) use forms::Modes;
pub(crate) use forms::ParamWord;
pub(crate) use forms::Security;
pub(crate) use forms::Sharing;
pub(crate) use forms::TimeRule;
pub(crate) use forms::Times;

/// The only version of the language so far.
pub(crate) const VERSION: i64 = 1;

table! {
    /// A plan: an `rbuild.toml`.
    pub(crate) struct File {
        /// Version of the language: 1.
        schema: Need<At<i64>>,
        /// Other plans, by their paths from this file. What they define is known here as `name.thing`, where the name is that of the file's directory, or of the file itself if that is not `rbuild.toml`.
        include: Vec<Include>,
        /// The outputs and groups that `rbuild .` builds. All outputs if it is left out.
        default: Option<List<Text>>,
        /// Values that whoever builds can choose, with `--build-arg NAME=VALUE`.
        args: Map<Arg>,
        /// All that enters the build from outside.
        inputs: Map<Input>,
        /// Directories that outlive builds.
        caches: Map<Cache>,
        /// Steps, each by its name: `[step.NAME]`. Their order means nothing.
        step: Map<Box<Step>>,
        /// Steps that check something, by name: `[test.NAME]`. They are in no image.
        test: Map<Test>,
        /// What builds give, by name: `[output.NAME]`.
        output: Map<Output>,
        /// Outputs by a common name.
        groups: Map<List<Text>>,
        /// Pieces of steps, by name: `[function.NAME]`.
        function: Map<Function>,
    }
}

table! {
    /// An included plan with a name of its own.
    pub(crate) struct NamedInclude {
        /// Path of the plan, from this file.
        path: Need<Text>,
        /// What its things are prefixed with.
        r#as: Need<Text>,
    }
}

/// An entry of `include`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Include {
    Path(Text),
    Named(NamedInclude),
}

table! {
    /// A value that whoever builds can choose.
    pub(crate) struct ArgTable {
        /// `string` (if it is left out), `bool` or `integer`: what values must look like.
        r#type: Option<ArgType>,
        /// The value if none is given; `{args.NAME}` and `{platform}` can stand in it. Without one the argument has no value until it is given.
        default: Option<Scalar>,
        /// The values it can have.
        one_of: Option<List<Scalar>>,
        /// What it is for; `rbuild ls` shows it.
        help: Option<Text>,
    }
}

/// An argument: its default, or a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arg {
    Default(Scalar),
    Table(ArgTable),
}

/// A string, a boolean or an integer, as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Scalar {
    pub(crate) text: String,
    pub(crate) kind: Type,
    pub(crate) span: Span,
}

/// What values of an argument look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    String,
    Bool,
    Integer,
}

kinds! {
    /// Something that enters the build from outside.
    pub(crate) enum Input ("an input") {
        "image" => Image(ImageInput),
        "local" => Local(LocalInput),
        "url" => Url(UrlInput),
        "git" => Git(GitInput),
        "dockerfile" => Dockerfile(DockerfileInput),
    }
}

table! {
    /// An image: to start from, to copy from, to mount.
    pub(crate) struct ImageInput {
        /// Its name, as FROM has it; `oci-layout://DIR` for a directory.
        image: Need<Text>,
        /// The platform it is taken for, if not the one that is built for: `build` for the builder's own, or a platform such as `linux/amd64`.
        platform: Option<Text>,
    }
}

table! {
    /// Files of this machine.
    pub(crate) struct LocalInput {
        /// The directory, from this file.
        local: Need<Text>,
        /// Only what these patterns match, directories with all they hold.
        include: Option<List<Text>>,
        /// Not what these patterns match; the rules are those of a `.dockerignore`, which is not read here.
        exclude: Option<List<Text>>,
        /// `git` (if it is left out): files are 0644, or 0755 if their owner may execute them, and directories 0755, so that another umask makes no difference. `exact`: modes are as they are.
        modes: Option<Modes>,
    }
}

table! {
    /// A file of a web server.
    pub(crate) struct UrlInput {
        /// Its URL.
        url: Need<Text>,
        /// SHA-256 of its content, in hexadecimal digits. Without it the server is asked at each build, unless a lock file knows.
        sha256: Option<Text>,
        /// Its mode, in octal digits: `755`. 600 if it is left out.
        mode: Option<Text>,
    }
}

table! {
    /// Files of a git repository.
    pub(crate) struct GitInput {
        /// Its URL.
        git: Need<Text>,
        /// A branch, a tag or a commit. Its default branch if it is left out.
        r#ref: Option<Text>,
        /// Only this directory of it.
        subdir: Option<Text>,
        /// Whether `.git` is there as well.
        keep_git_dir: Option<At<bool>>,
        /// The commit that `ref` must be, or its first digits.
        commit: Option<Text>,
    }
}

table! {
    /// A stage of a Dockerfile.
    pub(crate) struct DockerfileInput {
        /// The Dockerfile, from this file.
        dockerfile: Need<Text>,
        /// The stage; the last one if it is left out.
        target: Option<Text>,
        /// Its build context, from this file; the Dockerfile's directory if it is left out. Its `.dockerignore` counts.
        context: Option<Text>,
        /// Build arguments.
        args: Map<Text>,
        /// Steps and inputs of this plan as named contexts of the Dockerfile: each stands in for the image or stage of that name.
        contexts: Map<Text>,
    }
}

table! {
    /// A directory that outlives builds, for package managers and compilers.
    pub(crate) struct Cache {
        /// Where steps see it.
        path: Need<Text>,
        /// What it is called in rbuild's store; plans that use one id share it. Its name here if it is left out.
        id: Option<Text>,
        /// Who may use it at once: `shared` (if it is left out), `private`: each its own, `locked`: one after the other.
        sharing: Option<Sharing>,
        /// Mode of the directory when it is made, in octal digits; 755 if it is left out.
        mode: Option<Text>,
        /// Owner of the directory when it is made.
        uid: Option<At<i64>>,
        /// Group of the directory when it is made.
        gid: Option<At<i64>>,
        /// A step or input whose files it begins with.
        from: Option<Text>,
        /// The directory of these files that it begins with.
        source: Option<Text>,
        /// Whether steps can only read it.
        read_only: Option<At<bool>>,
    }
}

/// A command: a line for the shell, or a program with its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Command {
    Line(Text),
    Exec(List<Text>),
}

/// One string, or several.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Words(pub(crate) Vec<Text>);

/// Variables: a table, whose order means nothing, or a list of `NAME=value`, whose order does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Pairs {
    Table(Map<Text>),
    List(Vec<PairGroup>),
}

/// One entry of a list of variables or arguments: several are set at once.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PairGroup(pub(crate) Vec<Text>);

/// `true`, `false`, or `host`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Network {
    None,
    Default,
    Host,
}

/// A secret: its id, or a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SecretUse {
    Id(Text),
    Table(Box<Secret>),
}

/// An agent: its id, or a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum SshUse {
    Id(Text),
    Table(Box<Ssh>),
}

table! {
    /// A secret that a step's commands see.
    pub(crate) struct Secret {
        /// Which: `--secret id=ID,…`.
        id: Need<Text>,
        /// The file it is; `/run/secrets/ID` if both this and `env` are left out.
        target: Option<Text>,
        /// The variable it is.
        env: Option<Text>,
        /// Whether there is no build without it: `true` if it is left out.
        required: Option<At<bool>>,
        /// Mode of the file, in octal digits; 400 if it is left out.
        mode: Option<Text>,
        /// Owner of the file.
        uid: Option<At<i64>>,
        /// Group of the file.
        gid: Option<At<i64>>,
    }
}

table! {
    /// An ssh agent that a step's commands see.
    pub(crate) struct Ssh {
        /// Which: `--ssh ID`.
        id: Need<Text>,
        /// Where its socket is.
        target: Option<Text>,
        /// Whether there is no build without it: `true` if it is left out.
        required: Option<At<bool>>,
        /// Mode of the socket, in octal digits; 600 if it is left out.
        mode: Option<Text>,
        /// Owner of the socket.
        uid: Option<At<i64>>,
        /// Group of the socket.
        gid: Option<At<i64>>,
    }
}

kinds! {
    /// Something that a step's commands see, and that is not in the result.
    pub(crate) enum Mount ("a mount") {
        "from" => Bind(BindMount),
        "cache" => Cache(CacheMount),
        "tmpfs" => Tmpfs(TmpfsMount),
        "secret" => Secret(SecretMount),
        "ssh" => Ssh(SshMount),
    }
}

table! {
    /// Files of a step or input.
    pub(crate) struct BindMount {
        /// The step or input.
        from: Need<Text>,
        /// A path of it; all of it if it is left out.
        path: Option<Text>,
        /// Where commands see it.
        to: Need<Text>,
        /// Whether commands can write there; what they write is lost.
        write: Option<At<bool>>,
    }
}

table! {
    /// A cache, where the order of mounts matters; else name it in `caches`.
    pub(crate) struct CacheMount {
        /// Its name.
        cache: Need<Text>,
    }
}

table! {
    /// Memory.
    pub(crate) struct TmpfsMount {
        /// Where commands see it.
        tmpfs: Need<Text>,
        /// Its size in bytes, or with `k`, `m`, `g`.
        size: Option<Text>,
    }
}

table! {
    /// A secret, where the order of mounts matters; else name it in `secrets`.
    pub(crate) struct SecretMount {
        /// The secret.
        secret: Need<SecretUse>,
    }
}

table! {
    /// An ssh agent, where the order of mounts matters; else name it in `ssh`.
    pub(crate) struct SshMount {
        /// The agent.
        ssh: Need<SshUse>,
    }
}

table! {
    /// Files that a step gets.
    pub(crate) struct Copy {
        /// The step or input whose files they are.
        from: Option<Text>,
        /// What is copied of it, patterns allowed: files by their names, of directories what they hold. All of it if it is left out.
        path: Option<Words>,
        /// Only what these patterns match, below `path`; it keeps its directories.
        include: Option<List<Text>>,
        /// Not what these patterns match.
        exclude: Option<List<Text>>,
        /// Where to: a directory if it ends with `/`, or if several things are copied.
        to: Need<Text>,
        /// `user` or `user:group`, names or numbers; root if it is left out.
        owner: Option<Text>,
        /// Mode of all that is copied: octal digits, or as chmod(1) has it, such as `u=rwX,go=rX`.
        mode: Option<Text>,
        /// Whether it is a layer that does not depend on what is below it.
        link: Option<At<bool>>,
        /// Whether `path` keeps its directories, those after a `/./` in it.
        parents: Option<At<bool>>,
        /// Whether it is no error that nothing is there.
        optional: Option<At<bool>>,
        /// Whether archives are unpacked. Where this is said at all, files are added as ADD does it.
        unpack: Option<At<bool>>,
        /// The content of a file, in place of `from`.
        text: Option<Text>,
        /// The name of that file where `to` is a directory.
        name: Option<Text>,
    }
}

/// The use of a function: `{ fn = "NAME", PARAMETER = VALUE, … }`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Use {
    pub(crate) function: Text,
    pub(crate) values: Map<Value>,
    pub(crate) span: Span,
}

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    One(Scalar),
    List(List<Text>),
}

/// Conditions, all of which must hold: an argument, or `platform`, and the values it may have.
pub(crate) type When = Map<Words>;

/// Makes a table that has what all kinds of steps have.
macro_rules! body {
    (
        $(#[doc = $about:literal])*
        $vis:vis struct $name:ident {
            $( $(#[doc = $field_about:literal])* $field:ident: $ty:ty, )*
        }
    ) => {
        table! {
            $(#[doc = $about])*
            $vis struct $name {
                $( $(#[doc = $field_about])* $field: $ty, )*
                /// Arguments of the plan that commands see as variables, without being variables of the image. Of `NAME=value` the value counts where nobody gives the argument one, whatever its default; it need not be an argument of the plan.
                args: Vec<PairGroup>,
                /// Variables, of the commands and of the image.
                env: Option<Pairs>,
                /// The directory that commands run in, made if it is not there, and that relative paths start from.
                workdir: Option<Text>,
                /// The user that commands run as, and the image's: `user` or `user:group`, names or numbers.
                user: Option<Text>,
                /// What runs commands that are strings: `["/bin/sh", "-e", "-c"]` if it is left out.
                shell: Option<List<Text>>,
                /// Files it gets, before its commands run.
                copy: Vec<Copy>,
                /// Commands, in order, each a layer: strings are run by the shell, arrays as they are.
                run: Vec<Command>,
                /// What commands reach: `false` (if it is left out) nothing, `true` the network that builds have, `"host"` the machine's, which builds must allow.
                network: Option<At<Network>>,
                /// `sandbox` (if it is left out) or `insecure`, which builds must allow.
                security: Option<Security>,
                /// What else commands see.
                mounts: Vec<MountItem>,
                /// Caches that commands see, by their names.
                caches: Vec<CacheItem>,
                /// Secrets that commands see.
                secrets: Vec<SecretItem>,
                /// ssh agents that commands see.
                ssh: Vec<SshItem>,
            }
        }

        impl $name {
            /// What it has like all kinds of steps.
            pub(crate) fn body(&self) -> Body<'_> {
                Body {
                    args: &self.args,
                    env: self.env.as_ref(),
                    workdir: self.workdir.as_ref(),
                    user: self.user.as_ref(),
                    shell: self.shell.as_ref(),
                    copy: &self.copy,
                    run: &self.run,
                    network: self.network.as_ref(),
                    security: self.security.as_ref(),
                    mounts: &self.mounts,
                    caches: &self.caches,
                    secrets: &self.secrets,
                    ssh: &self.ssh,
                    span: &self.span,
                }
            }
        }
    };
}

/// What all kinds of steps have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Body<'a> {
    pub(crate) args: &'a [PairGroup],
    pub(crate) env: Option<&'a Pairs>,
    pub(crate) workdir: Option<&'a Text>,
    pub(crate) user: Option<&'a Text>,
    pub(crate) shell: Option<&'a List<Text>>,
    pub(crate) copy: &'a [Copy],
    pub(crate) run: &'a [Command],
    pub(crate) network: Option<&'a At<Network>>,
    pub(crate) security: Option<&'a Security>,
    pub(crate) mounts: &'a [MountItem],
    pub(crate) caches: &'a [CacheItem],
    pub(crate) secrets: &'a [SecretItem],
    pub(crate) ssh: &'a [SshItem],
    pub(crate) span: &'a Span,
}

body! {
    /// A step: where it starts, what it gets, what it runs, in this order: functions, variables and directory, files, commands, image config.
    pub(crate) struct Step {
        /// The step or input it starts from, or `scratch`.
        from: Need<Text>,
        /// What it is for; `rbuild ls` shows it.
        help: Option<Text>,
        /// When it does anything; else it is what it starts from.
        when: When,
        /// Functions it begins with.
        r#use: Vec<Use>,
        /// The config that images of this step, and of those that start from it, have.
        image: Option<Box<Image>>,
        /// What it does after all that, part by part: for what must have another order than the fixed one.
        then: Vec<Part>,
    }
}

body! {
    /// A part of a step, with the same order in it.
    pub(crate) struct Part {
        /// The config that images have from here on.
        image: Option<Box<Image>>,
    }
}

body! {
    /// A step that checks something. It is in no image.
    pub(crate) struct Test {
        /// The step or input it starts from, or `scratch`.
        from: Need<Text>,
        /// What it is for; `rbuild ls` shows it.
        help: Option<Text>,
        /// When it is run; else it counts as passed.
        when: When,
        /// Functions it begins with.
        r#use: Vec<Use>,
        /// Files that are written when it has run, also when it failed.
        export: Vec<Export>,
    }
}

body! {
    /// A piece of a step. In its values `{name}` stands for a parameter.
    pub(crate) struct Function {
        /// Its parameters: `string`, `bool` or `integer` for one value, `list` for several. In a line for the shell values are quoted.
        params: Map<Param>,
        /// What it is for.
        help: Option<Text>,
    }
}

/// What a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ParamType {
    One(Type),
    List,
}

/// A parameter: the word for its type, or a table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Param {
    Type(ParamWord),
    Table(ParamTable),
}

table! {
    /// A parameter of a function.
    pub(crate) struct ParamTable {
        /// `string`, `bool`, `integer` or `list`.
        r#type: Need<ParamWord>,
        /// The value if none is given.
        default: Option<Value>,
    }
}

table! {
    /// Files of a step that are written to a directory of this machine.
    pub(crate) struct Export {
        /// The file, or the directory, whose content is written.
        path: Need<Text>,
        /// The directory, from this file; of a file also its new name, if it does not end with `/`.
        to: Need<Text>,
    }
}

table! {
    /// Something that builds give: an image, files, or both.
    pub(crate) struct Output {
        /// The step or input it is made of.
        step: Need<Text>,
        /// What it is for; `rbuild ls` shows it.
        help: Option<Text>,
        /// Platforms it is made for; the builder's own if it is left out.
        platforms: Option<List<Text>>,
        /// Values of arguments; there is an output for each combination. `{matrix.NAME}` is the value.
        matrix: Map<List<Scalar>>,
        /// When there is such an output.
        when: When,
        /// Names of the image.
        tags: Vec<Text>,
        /// Whether the image is sent to the registries of its names.
        push: Option<At<bool>>,
        /// Tests that must have passed: nothing is written before.
        require: Vec<Text>,
        /// Config of the image, over the config of the step.
        image: Option<Box<Image>>,
        /// Files of the step that are written to a directory of this machine.
        local: Option<Export>,
        /// An OCI archive, by its path from this file; a directory in that layout if it ends with `/`.
        oci: Option<Text>,
        /// An archive for `docker load`, by its path from this file.
        docker: Option<Text>,
        /// An archive of the files, by its path from this file.
        tar: Option<Text>,
        /// Times of files in layers: `clamp` (if it is left out) to SOURCE_DATE_EPOCH, 1980-01-01 where that is not set, so that the same files always make the same layers; `keep` as they are.
        times: Option<Times>,
    }
}

table! {
    /// Config of an image.
    pub(crate) struct Image {
        /// Variables.
        env: Option<Pairs>,
        /// The directory that its command runs in.
        workdir: Option<Text>,
        /// The user that its command runs as.
        user: Option<Text>,
        /// The program it runs. A base's `cmd` goes with the base's entry point.
        entrypoint: Option<List<Text>>,
        /// Arguments of the program, or the program where there is no entry point.
        cmd: Option<List<Text>>,
        /// Labels.
        labels: Option<Pairs>,
        /// Ports: `8080` or `53/udp`.
        expose: Vec<Text>,
        /// Directories that hold data.
        volumes: Vec<Text>,
        /// The signal that stops it.
        stop_signal: Option<Text>,
        /// How to tell whether it is well; `false` for no check, whatever a base has.
        healthcheck: Option<Health>,
        /// The shell of Dockerfiles that start from it.
        shell: Option<List<Text>>,
        /// Instructions for Dockerfiles that start from it.
        onbuild: Vec<Text>,
        /// Who made it.
        author: Option<Text>,
    }
}

/// A health check, or none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Health {
    None,
    Check(Box<Healthcheck>),
}

table! {
    /// How to tell whether a container is well.
    pub(crate) struct Healthcheck {
        /// The command: a line for the image's shell, or a program with its arguments.
        cmd: Need<Command>,
        /// Between checks: `30s`, `1m30s`.
        interval: Option<Text>,
        /// How long one may take.
        timeout: Option<Text>,
        /// Before failures count.
        start_period: Option<Text>,
        /// Between checks before failures count.
        start_interval: Option<Text>,
        /// Failures in a row that count.
        retries: Option<At<i64>>,
    }
}

/// An entry of a list that `"..."` extends: what the step it starts from has stands in its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Item<T> {
    /// `"..."`
    Inherited(Span),
    Own(T),
}

pub(crate) type MountItem = Item<Mount>;
pub(crate) type CacheItem = Item<Text>;
pub(crate) type SecretItem = Item<SecretUse>;
pub(crate) type SshItem = Item<SshUse>;

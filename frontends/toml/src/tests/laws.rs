//! What holds for all plans: order and form of the file mean nothing, values are put in as values, steps are shared as
//! far as they are the same.

use proptest::prelude::*;
use rbuild_llb::Op;
use rbuild_llb::frontend::GoalKind;

use super::build;
use super::errors;
use super::essence;
use super::plan;
use super::request;
use crate::Plan;

/// The shell lines of a plan with one step that has this function and these values.
fn lines(body: &str) -> Vec<String> {
    let converted = plan(body);
    let pruned = converted.definition.prune();
    let exec = pruned.iter().filter_map(|(_, vertex)| match &vertex.op {
        Op::Exec(exec) => exec.args.last().map(ToString::to_string),
        _ => None,
    });
    exec.collect()
}

#[test]
fn values_are_put_into_lines_as_one_word_each() {
    let line = |line: &str, value: &str| {
        let text = format!(
            "schema = 1\n[args]\nv = {value:?}\n[step.s]\nfrom = 'scratch'\nrun = [{line:?}]\n[output.o]\nstep = 's'\n"
        );
        lines(&text).concat()
    };
    for (text, value, want) in [
        ("echo {args.v}", "1.2", "echo 1.2"),
        ("echo {args.v}", "a b", "echo 'a b'"),
        ("echo {args.v}", "it's", r"echo 'it'\''s'"),
        ("echo {args.v}", "", "echo ''"),
        ("echo {args.v}", "$(reboot)", "echo '$(reboot)'"),
        (r#"echo "v={args.v}""#, "$x \"y\"", r#"echo "v=\$x \"y\"""#),
        ("echo 'v={args.v}'", "it's $x", r"echo 'v=it'\''s $x'"),
        (r#"echo \"{args.v}"#, "a b", r#"echo \"'a b'"#),
        (
            "echo ${args.v} {a,b} {x} {}",
            "1",
            "echo ${args.v} {a,b} {x} {}",
        ),
        (
            "awk '{print $1}' {{args.v}}",
            "1",
            "awk '{print $1}' {args.v}",
        ),
        ("echo {args.v}{args.v}", "a", "echo aa"),
    ] {
        assert_eq!(line(text, value), want, "{text} with {value}");
    }
}

#[test]
fn lists_are_several_words_and_alone_several_arguments() {
    let text = r#"
schema = 1
[function.apt]
params = { packages = "list", flag = { type = "string", default = "-y" } }
run = ["apt-get install {flag} {packages}", ["apt", "{packages}", "x{packages}"]]
[step.s]
from = "scratch"
use = [{ fn = "apt", packages = ["git", "a b"] }]
[output.o]
step = "s"
"#;
    let converted = plan(text);
    let pruned = converted.definition.prune();
    let args: Vec<Vec<String>> = pruned
        .iter()
        .filter_map(|(_, vertex)| match &vertex.op {
            Op::Exec(exec) => Some(exec.args.iter().map(ToString::to_string).collect()),
            _ => None,
        })
        .collect();
    assert_eq!(
        args,
        [
            vec!["/bin/sh", "-e", "-c", "apt-get install -y git 'a b'"],
            vec!["apt", "git", "a b", "xgit a b"],
        ]
    );
}

#[test]
fn three_dots_are_what_the_step_has_that_is_started_from() {
    let text = r#"
schema = 1
[caches]
a = { path = "/a" }
b = { path = "/b" }
[step.one]
from = "scratch"
caches = ["a"]
secrets = ["s"]
run = [["one"]]
[step.two]
from = "one"
caches = ["...", "b"]
secrets = ["..."]
run = [["two"]]
[output.o]
step = "two"
"#;
    let converted = plan(text);
    let pruned = converted.definition.prune();
    let dests = pruned.iter().filter_map(|(_, vertex)| match &vertex.op {
        Op::Exec(exec) => Some(
            exec.mounts
                .iter()
                .map(|m| m.dest.clone())
                .collect::<Vec<_>>(),
        ),
        _ => None,
    });
    let dests: Vec<Vec<String>> = dests.collect();
    assert_eq!(
        dests,
        [
            vec!["/", "/a", "/run/secrets/s"],
            vec!["/", "/a", "/b", "/run/secrets/s"],
        ]
    );
    assert_eq!(
        errors(&text.replace("caches = [\"a\"]", "caches = [\"...\"]")),
        ["`\"...\"` stands for what the step has that this one starts from"]
    );
}

#[test]
fn outputs_of_a_matrix_share_what_does_not_depend_on_it() {
    let text = r#"
schema = 1
[args]
v = { default = "1", one-of = ["1", "2", "3"] }
w = "x"
[step.base]
from = "scratch"
run = [["base", "{args.w}"]]
[step.app]
from = "base"
run = [["app", "{args.v}"]]
[test.all]
from = "base"
run = [["all"]]
[test.each]
from = "app"
run = [["each"]]
[output.web]
step = "app"
matrix = { v = ["1", "2"], os = ["a", "b"] }
tags = ["web:{matrix.v}-{matrix.os}"]
require = ["test.all", "test.each"]
"#;
    let converted = plan(text);
    let names: Vec<(String, Vec<String>)> = converted
        .goals
        .iter()
        .map(|goal| (goal.name.clone(), goal.require.clone()))
        .collect();
    let of = |name: &str, require: &[&str]| {
        (
            name.to_owned(),
            require.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>(),
        )
    };
    assert_eq!(
        names,
        [
            of("test.all", &[]),
            of("test.each-1", &[]),
            of("web-a-1", &["test.all", "test.each-1"]),
            of("test.each-2", &[]),
            of("web-a-2", &["test.all", "test.each-2"]),
            of("web-b-1", &["test.all", "test.each-1"]),
            of("web-b-2", &["test.all", "test.each-2"]),
        ]
    );
    let tags = converted.goals.iter().filter_map(|goal| match &goal.kind {
        GoalKind::Output { tags, .. } => Some(tags.concat()),
        GoalKind::Test { .. } => None,
    });
    assert_eq!(
        tags.collect::<Vec<_>>()[..2],
        ["docker.io/library/web:1-a", "docker.io/library/web:2-a"]
    );
    // base, two apps, and each of the tests: one and two.
    assert_eq!(converted.definition.prune().len(), 6);
    assert_eq!(
        errors(&text.replace("v = [\"1\", \"2\"]", "v = [\"1\", \"4\"]")),
        ["`4` is no value of the argument `v`"]
    );
}

/// Chains are as long as a file can make them: neither a good nor a bad one is a recursion.
#[test]
fn long_chains_of_steps_are_no_deep_recursion() {
    let chain = |first: &str| {
        let mut text = format!("schema = 1\n[step.s0]\nfrom = '{first}'\nrun = [['0']]\n");
        for step in 1..3000 {
            text.push_str(&format!(
                "[step.s{step}]\nfrom = 's{}'\nrun = [['{step}']]\n",
                step - 1
            ));
        }
        text + "[output.o]\nstep = 's2999'\n"
    };
    assert_eq!(plan(&chain("scratch")).definition.prune().len(), 3000);
    assert_eq!(
        errors(&chain("nothing")),
        ["there is no step or input `nothing`"]
    );
    let cycle = errors(&chain("s2999"));
    assert!(
        cycle[0].starts_with("steps need each other: `s2999` → `s2998`"),
        "{cycle:?}"
    );
}

#[test]
fn lists_that_extend_each_other_end() {
    let mut text =
        "schema = 1\n[step.s0]\nfrom = 'scratch'\nssh = ['a']\nrun = [['0']]\n".to_owned();
    for step in 1..1500 {
        text.push_str(&format!(
            "[step.s{step}]\nfrom = 's{}'\nssh = ['...']\nrun = [['{step}']]\n",
            step - 1
        ));
    }
    let short = format!("{text}[output.o]\nstep = 's500'\n");
    assert_eq!(plan(&short).definition.prune().len(), 501);
    assert_eq!(
        errors(&format!("{text}[output.o]\nstep = 's1499'\n")),
        ["this step extends or has more than 1000 mounts"]
    );
}

#[test]
fn conditions_are_by_equality_and_all_must_hold() {
    let text = |when: &str| {
        format!(
            "schema = 1\n[args]\nv = '1'\n[step.s]\nfrom = 'scratch'\nwhen = {when}\nrun = [['s']]\n[output.o]\nstep = 's'\n"
        )
    };
    for (when, runs) in [
        ("{ v = '1' }", 1),
        ("{ v = '2' }", 0),
        ("{ v = ['2', '1'] }", 1),
        ("{ platform = 'linux/amd64' }", 1),
        ("{ platform = 'linux/x86_64', v = '1' }", 1),
        ("{ platform = 'linux/arm64', v = '1' }", 0),
    ] {
        assert_eq!(plan(&text(when)).definition.prune().len(), runs, "{when}");
    }
}

#[test]
fn platforms_are_those_of_the_outputs_that_are_built() {
    let text = r#"
schema = 1
[step.s]
from = "scratch"
run = [["s"]]
[output.one]
step = "s"
[output.many]
step = "s"
platforms = ["linux/arm64", "linux/riscv64"]
"#;
    let platforms = |targets: &[&str]| {
        let mut request = request(text);
        request.targets = targets.iter().map(|t| (*t).to_owned()).collect();
        let all = rbuild_llb::Frontend::platforms(&Plan::default(), &request).unwrap();
        all.iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(platforms(&["one"]), "linux/amd64");
    assert_eq!(platforms(&["many"]), "linux/arm64 linux/riscv64");
    assert_eq!(platforms(&[]), "linux/arm64 linux/riscv64 linux/amd64");
    let goals = |platform: &str| {
        let mut request = request(text);
        request.target_platform = platform.parse().unwrap();
        let converted = build(&Plan::default(), &request).unwrap();
        converted
            .goals
            .into_iter()
            .map(|goal| goal.name)
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(goals("linux/amd64"), "one");
    assert_eq!(goals("linux/arm64"), "many");
}

/// A plan with something of everything, as blocks whose order is free.
const BLOCKS: [&str; 12] = [
    "[args]\nv = '1'\nw = { default = 'x', help = 'w' }\n",
    "[inputs]\nbase = { image = 'alpine:3' }\nsrc = { local = '.', exclude = ['*.o'] }\n",
    "[inputs.jq]\nurl = 'https://example.org/jq'\nmode = '755'\n",
    "[caches.pip]\npath = '/pip'\nsharing = 'locked'\n",
    "[step.deps]\nfrom = 'base'\ncopy = [{ from = 'src', include = ['a', 'b'], to = '/app/' }]\nrun = ['pip {args.v}']\ncaches = ['pip']\nnetwork = true\n",
    "[step.app]\nfrom = 'deps'\nenv = { B = '2', A = '{env.PATH}' }\ncopy = [{ from = 'src', to = '/app/' }, { from = 'jq', to = '/bin/jq' }]\nworkdir = '/app'\n",
    "[test.unit]\nfrom = 'app'\nrun = [['pytest']]\nexport = [{ path = '/out', to = 'reports/' }]\n",
    "[output.web]\nstep = 'app'\ntags = ['web:{matrix.v}']\nmatrix = { v = ['1', '2'] }\nrequire = ['test.unit']\n",
    "[output.web.image]\ncmd = ['x']\nlabels = { z = '1', y = '2' }\n",
    "[output.bin]\nstep = 'app'\nlocal = { path = '/app', to = 'dist/' }\n",
    "[function.f]\nparams = { p = 'list' }\nrun = ['f {p}']\n",
    "[step.more]\nfrom = 'app'\nuse = [{ fn = 'f', p = ['a'] }]\n[output.more]\nstep = 'more'\n",
];

/// The same block with its keys in another order, blanks and comments between.
fn reform(block: &str, seed: u64) -> String {
    let mut sections: Vec<Vec<String>> = Vec::new();
    for line in block.lines() {
        match line.starts_with('[') {
            true => sections.push(vec![line.to_owned()]),
            false => sections.last_mut().unwrap().push(line.to_owned()),
        }
    }
    let mut text = String::new();
    for mut section in sections {
        let lines = &mut section[1..];
        let count = lines.len().max(1);
        lines.rotate_left((seed as usize) % count);
        for (at, line) in section.iter().enumerate() {
            if (seed >> at) & 1 == 1 {
                text.push_str("\n  # a comment\n");
            }
            let line = match line.split_once(" = ") {
                Some((key, value)) if !line.starts_with('[') && (seed >> (at + 3)) & 1 == 1 => {
                    format!("\t\"{key}\"  =   {value}  # {key}")
                }
                _ => line.clone(),
            };
            text.push_str(&line);
            text.push_str(if seed & 64 == 0 { "\n" } else { "\r\n" });
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn order_and_form_of_the_file_change_no_step(
        order in Just((0..BLOCKS.len()).collect::<Vec<_>>()).prop_shuffle(),
        seeds in proptest::collection::vec(any::<u64>(), BLOCKS.len()),
    ) {
        let first = essence(plan(&format!("schema = 1\n{}", BLOCKS.concat())));
        let text: String = order
            .iter()
            .map(|at| reform(BLOCKS[*at], seeds[*at]))
            .collect();
        let other = plan(&format!("schema = 1\n{text}"));
        prop_assert_eq!(first, essence(other), "{}", text);
    }
}

/// The history of a plan's only output.
fn history(args: &[(&str, &str)], body: &str) -> Vec<String> {
    let mut request = request(&format!("schema = 1\n{body}\n[output.o]\nstep = 's'\n"));
    for (name, value) in args {
        request.build_args.insert((*name).into(), (*value).into());
    }
    let converted = build(&Plan::default(), &request).unwrap();
    let history = &converted.definition.outputs[0].config.history;
    history.iter().map(|one| one.created_by.clone()).collect()
}

#[test]
fn an_argument_can_have_a_value_of_its_own_in_a_step() {
    let plan = "[args]\nv = '1'\nw = 'w{args.v}-{platform.arch}'\n[step.s]\nfrom = 'scratch'\nargs = ['v', ['v=2', 'w'], 'x={args.v}', 'y']\n";
    let plan = plan.replace("w = ", "y = {}\nw = ");
    assert_eq!(
        history(&[], &plan),
        ["ARG v=1", "ARG v=2 w=w1-amd64", "ARG x=1", "ARG y"]
    );
    assert_eq!(
        history(&[("v", "3"), ("y", "4")], &plan),
        ["ARG v=3", "ARG v=3 w=w3-amd64", "ARG x=3", "ARG y=4"]
    );
}

#[test]
fn variables_of_the_environment_can_have_a_word_in_their_place() {
    let plan = "[step.s]\nfrom = 'scratch'\nenv = ['A=', 'B=b', 'C={env.A:-x y}{env.B:-z}{env.N:-}', 'D={env.A:+x}{env.B:+a.b}', 'E={{env.A:-x}}{env.A:x}']\n";
    assert_eq!(
        history(&[], plan)[2..],
        ["ENV C=x yb", "ENV D=a.b", "ENV E={env.A:-x}{env.A:x}"]
    );
}

#[test]
fn defaults_that_cannot_be_filled_in_are_reported() {
    let tail = "[step.s]\nfrom = 'scratch'\n[output.o]\nstep = 's'\n";
    for args in [
        "a = '{args.b}'\nb = '{args.a}'",
        "a = '{args.c}'",
        "a = '{args.b}'\nb = {}",
        "a = '{env.HOME}'",
    ] {
        let text = format!("schema = 1\n[args]\n{args}\n{tail}");
        let found = errors(&text);
        let want = "the default of the argument `a` has no value";
        assert!(found.iter().any(|error| error == want), "{args}: {found:?}");
    }
}

#[test]
fn parts_of_a_step_are_done_one_after_the_other_in_one_stage() {
    let plan = "[step.s]\nfrom = 'scratch'\nworkdir = '/'\nimage = { cmd = ['c'] }\n\
        [[step.s.then]]\nuser = 'u'\nimage = { entrypoint = ['e'] }\n[[step.s.then]]\nenv = { A = '1' }\n";
    assert_eq!(
        history(&[], plan),
        [
            "WORKDIR /",
            "CMD [\"c\"]",
            "USER u",
            "ENTRYPOINT [\"e\"]",
            "ENV A=1"
        ]
    );
}

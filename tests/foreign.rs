//! Steps for another architecture. Emulators are registered in a user namespace since Linux 6.7; before it takes a
//! registration on the machine, and without one builds end before anything runs. Which of these it is, is asked of the
//! kernel, and each test knows what is to come of it.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use snapbox::assert_data_eq;

use crate::single_id;
use crate::support::Base;
use crate::support::FOREIGN;
use crate::support::Gate;
use crate::support::Output;
use crate::support::TestEnv;
use crate::support::list_tar;

/// As the kernel names the machine.
fn machine() -> &'static str {
    match FOREIGN {
        "arm64" => "aarch64",
        _ => "x86_64",
    }
}

fn platform() -> String {
    format!("--platform=linux/{FOREIGN}")
}

/// Whether an ordinary user has a binfmt_misc of their own here.
fn has_own(env: &TestEnv) -> bool {
    let place = env.outside("binfmt");
    fs::create_dir_all(&place).unwrap();
    let mount = [
        "--map-root-user",
        "--mount",
        "mount",
        "-t",
        "binfmt_misc",
        "none",
    ];
    let tried = env.run(env.tool_command("unshare").args(mount).arg(place));
    tried.status.success()
}

/// What is registered on the machine.
fn registered() -> BTreeMap<String, String> {
    let entries = fs::read_dir("/proc/sys/fs/binfmt_misc")
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            // `register` can only be written.
            let text = fs::read_to_string(&path).unwrap_or_default();
            (path.to_string_lossy().into_owned(), text)
        });
    entries.collect()
}

/// Whether the machine has an emulator that images can use, F, in its own registration.
fn machine_has_one() -> bool {
    let entry = format!("/proc/sys/fs/binfmt_misc/qemu-{}", machine());
    let text = fs::read_to_string(entry).unwrap_or_default();
    let mut lines = text.lines();
    text.starts_with("enabled")
        && lines.any(|line| {
            line.strip_prefix("flags: ")
                .is_some_and(|flags| flags.contains('F'))
        })
}

/// The output of a build that needs an emulator, or `None` where there cannot be one and the build says so.
fn emulated(env: &TestEnv, output: Output) -> Option<Output> {
    if has_own(env) || machine_has_one() {
        return Some(output.success());
    }
    let output = output.code(3).says("it takes Linux 6.7 or later");
    assert_eq!(output.ran(), [""; 0], "{output}");
    None
}

/// What programs do with owners, names and links to themselves.
const FLOWS: &str = r#"FROM BASE
RUN mkdir /d && touch /d/f && chown 1:2 /d/f && ln -s f /d/l && chown -h 3:4 /d/l && chown 33:34 /d && chmod 2750 /d \
 && stat -c '%u:%g %a %F %n' /d /d/f > /seen && cp -a /d /copy && mkfifo /p && chown app /p
RUN busybox tar -c d | (mkdir /unpacked && busybox tar -C /unpacked -xp) && rm -r /copy && mv /p /q \
 && su app -s /bin/sh -c 'id > /tmp/his; touch /tmp/his-too' && (exec -a sh busybox -c 'echo "$0"') > /zero
USER app
RUN id > /tmp/user && mkdir -p /tmp/a/b
"#;

/// The same tree as this machine's own programs make, on both rungs.
#[test]
fn steps_leave_what_native_ones_do() {
    let env = TestEnv::new().bases([Base::Busybox, Base::ForeignBusybox]);
    let before = registered();
    let build = |name: &str| -> [String; 4] {
        [
            "--progress=plain".to_owned(),
            "--build-arg=SOURCE_DATE_EPOCH=1700000000".to_owned(),
            format!("--output=type=tar,dest={name},rewrite-timestamp=true"),
            ".".to_owned(),
        ]
    };
    let flows = |base: &str| env.write("Dockerfile", FLOWS.replace("BASE", base));
    let listed = |name: &str| -> String {
        // What is in bin differs: it is the programs themselves.
        let entries = list_tar(&env.path(name)).into_iter();
        let files = entries.filter(|entry| !entry.path.starts_with("bin/"));
        files.map(|entry| format!("{entry}\n")).collect()
    };
    let said = |name: &str, file: &str| {
        let archive = env.path(name);
        let args = ["-xOf", archive.to_str().unwrap(), file];
        env.tool("tar", args).success().stdout
    };
    flows("busybox");
    env.rbuild(build("native.tar")).success();

    flows("foreign-busybox");
    let with_platform = |name: &str| [vec![platform()], build(name).to_vec()].concat();
    let output = env.rbuild(with_platform("first.tar"));
    let Some(output) = emulated(&env, output) else {
        return;
    };
    let mark = format!(" emulated by qemu-{}\n", machine());
    assert_eq!(output.stderr.matches(&mark).count(), 3, "{output}");
    output.says(&format!("\n3 steps were emulated by qemu-{}: ", machine()));

    let single = TestEnv::new().bases([Base::ForeignBusybox]);
    single.write("Dockerfile", FLOWS.replace("BASE", "foreign-busybox"));
    let args = with_platform("second.tar");
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    single_id::build(&single, &args).success();
    fs::copy(single.path("second.tar"), env.path("second.tar")).unwrap();

    for foreign in ["first.tar", "second.tar"] {
        assert_data_eq!(listed(foreign), listed("native.tar"));
        for file in ["seen", "zero", "tmp/his", "tmp/user"] {
            assert_eq!(
                said(foreign, file),
                said("native.tar", file),
                "{foreign}: {file}"
            );
        }
    }
    assert_eq!(registered(), before);
}

/// A program for i386 that calls `chown("/f", 5, 7)` and exits with the error number.
#[cfg(target_arch = "x86_64")]
fn chown_of_32_bits() -> Vec<u8> {
    const BASE: u32 = 0x0040_0000;
    const HEADERS: u32 = 52 + 32;
    let mut code = Vec::new();
    // mov eax, SYS_chown32; mov ebx, path; mov ecx, 5; mov edx, 7; int 0x80
    for (register, value) in [
        (0xb8, 212),
        (0xbb, BASE + HEADERS + 33),
        (0xb9, 5),
        (0xba, 7),
    ] {
        code.push(register);
        code.extend(u32::to_le_bytes(value));
    }
    // int 0x80; neg eax; mov ebx, eax; mov eax, SYS_exit; int 0x80
    code.extend(b"\xcd\x80\xf7\xd8\x89\xc3\xb8\x01\0\0\0\xcd\x80/f\0");
    let mut file = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x03\0".to_vec();
    let length = HEADERS + code.len() as u32;
    // Version, entry, program headers, section headers, flags.
    for word in [1, BASE + HEADERS, 52, 0, 0] {
        file.extend(u32::to_le_bytes(word));
    }
    for half in [52, 32, 1, 0, 0, 0] {
        file.extend(u16::to_le_bytes(half));
    }
    // One segment: PT_LOAD, offset, both addresses, both sizes, readable and executable, alignment.
    for word in [1, 0, BASE, BASE, length, length, 5, 0x1000] {
        file.extend(u32::to_le_bytes(word));
    }
    file.extend(code);
    file
}

/// Calls of 32 bits are not supervised where there is one user id, and those that an emulator makes for them are.
#[test]
#[cfg(target_arch = "x86_64")]
fn with_one_id_programs_of_32_bits_are_emulated() {
    let env = TestEnv::new()
        .file(
            "Dockerfile",
            "FROM scratch\nCOPY f chown /\nRUN [\"/chown\"]\n",
        )
        .file("f", "")
        .file("chown", chown_of_32_bits());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(env.path("chown"), mode).unwrap();
    let build = |output: &'static str| {
        let progress = "--progress=plain";
        ["build", progress, "--platform=linux/386", output, "."]
    };
    let owner = |name: &str| {
        let entries = list_tar(&env.path(name)).into_iter();
        let file = entries.filter(|entry| entry.path == "f");
        file.map(|entry| entry.to_string()).collect::<String>()
    };
    env.rbuild(build("--output=type=tar,dest=ranges.tar"))
        .success();
    assert!(
        owner("ranges.tar").contains(" 5/7 "),
        "{}",
        owner("ranges.tar")
    );
    let single = build("--output=type=tar,dest=single.tar");
    // Nothing runs that could not keep owners.
    let mut without = env.tool_command("setpriv");
    without
        .args([
            "--no-new-privs",
            env!("CARGO_BIN_EXE_rbuild"),
            "--root=../other",
        ])
        .args(single)
        .env("PATH", "/nowhere");
    let refused = env.run(&mut without).code(3).says(
        "programs of 32 bits can have the owners of their files kept under an emulator alone",
    );
    assert_eq!(refused.ran(), [""; 0], "{refused}");
    let again = [&["--root=../other"], &single[..]].concat();
    let output = single_id::build(&env, &again);
    match has_own(&env) {
        true => {
            output.success().says(" emulated by qemu-i386\n");
            assert_eq!(owner("single.tar"), owner("ranges.tar"));
        }
        false => drop(output.code(3).says("it takes Linux 6.7 or later")),
    }
}

/// While a step runs, it sees no registration, and this machine has none.
#[test]
fn nothing_is_registered_on_the_machine_nor_seen_in_the_step() {
    let gate = Gate::new();
    let env = TestEnv::new().bases([Base::ForeignBusybox]);
    let look =
        "ls /proc/sys/fs/binfmt_misc; grep binfmt /proc/self/mounts; ls / /bin | grep qemu; true";
    env.write(
        "Dockerfile",
        format!(
            "FROM foreign-busybox\nRUN uname -m && {look}\nRUN {}\n",
            gate.pass()
        ),
    );
    let args = [
        "--progress=plain",
        "--network=host",
        "--allow=network.host",
        &platform(),
        ".",
    ];
    let before = registered();
    if !has_own(&env) {
        let output = env.rbuild(args);
        if let Some(output) = emulated(&env, output) {
            output.says(&format!(" {}\n", machine()));
        }
        return;
    }
    let mut command = env.rbuild_command(args);
    let piped = std::process::Stdio::piped;
    let build = command.stdout(piped()).stderr(piped()).spawn().unwrap();
    let waiting = gate.wait();
    assert_eq!(registered(), before);
    // A program of the foreign machine, as it would be started by anybody else.
    let program = env.outside("busybox");
    let layout = Base::ForeignBusybox.layout();
    let unpacked = env.outside("unpacked");
    let image = format!("{}:latest", layout.display());
    env.tool(
        "umoci",
        [
            "unpack",
            "--rootless",
            "--image",
            &image,
            unpacked.to_str().unwrap(),
        ],
    )
    .success();
    fs::copy(unpacked.join("rootfs/bin/busybox"), &program).unwrap();
    let executed = Command::new(&program).arg("true").output();
    assert_eq!(executed.is_ok(), machine_has_one(), "{executed:?}");
    waiting.go_on();
    let output = env.finished(build).success();
    let printed: Vec<&str> = output
        .stderr
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix('#')?.splitn(3, ' ');
            words.next()?;
            words.next()?.parse::<f64>().ok()?;
            words.next()
        })
        .collect();
    assert_eq!(printed, [machine()], "{output}");
}

#[test]
fn without_an_emulator_nothing_runs() {
    let env = TestEnv::new().bases([Base::Busybox, Base::ForeignBusybox]).file(
        "Dockerfile",
        "FROM --platform=$BUILDPLATFORM busybox AS native\nRUN touch /made\nFROM foreign-busybox\nCOPY --from=native /made /\nRUN true\n",
    );
    if machine_has_one() {
        // It would be taken.
        return without_what_is_chosen(&env);
    }
    let args = ["--progress=plain", &platform(), "."];
    let output = env
        .run(env.rbuild_command(args).env("PATH", "/nowhere"))
        .code(3);
    assert_eq!(output.ran(), [""; 0], "{output}");
    let expected = r#"error: steps for `linux/ARCH` cannot run here: there is no `qemu-MACHINE-static` or `qemu-MACHINE` in PATH, and none is registered on this machine
 --> Dockerfile:5:1
  |
5 | RUN true
  | ^^^^^^^^
  |
hint: install QEMU's static user emulators (Debian, Ubuntu, Fedora, Arch: package qemu-user-static; Alpine: qemu-MACHINE), or name one with `--emulator ARCH=FILE`
[exit status: 3]
"#;
    let expected = expected
        .replace("ARCH", FOREIGN)
        .replace("MACHINE", machine());
    output.fails_with(expected);
    without_what_is_chosen(&env);
}

/// Whoever names a file means that file.
fn without_what_is_chosen(env: &TestEnv) {
    for (file, why) in [
        (
            "/nowhere/qemu",
            "`/nowhere/qemu`: No such file or directory (os error 2)",
        ),
        (
            "/bin/sh",
            "`/bin/sh` is not a static program, and its libraries are not in the images",
        ),
    ] {
        let chosen = format!("--emulator={FOREIGN}={file}");
        let output = env
            .rbuild(["--progress=plain", &chosen, &platform(), "."])
            .code(3);
        assert_eq!(output.ran(), [""; 0], "{output}");
        output.says(&format!(
            "steps for `linux/{FOREIGN}` cannot run here: {why}\n"
        ));
    }
    let busybox = Command::new("sh")
        .args(["-c", "command -v busybox"])
        .output()
        .unwrap();
    let busybox = String::from_utf8(busybox.stdout).unwrap();
    let chosen = format!("--emulator={FOREIGN}={}", busybox.trim());
    let output = env
        .rbuild(["--progress=plain", &chosen, &platform(), "."])
        .code(3);
    assert_eq!(output.ran(), [""; 0], "{output}");
}

#[test]
fn an_image_of_another_architecture_is_run() {
    let env = TestEnv::new().bases([Base::ForeignBusybox]).file(
        "Dockerfile",
        "FROM foreign-busybox\nENTRYPOINT [\"uname\", \"-m\"]\n",
    );
    env.rbuild(["-t", "app", &platform(), "."]).success();
    // Without being told: there is no other.
    let run = |args: &[&str]| env.rbuild([&["run"], args].concat());
    for args in [&["app"] as &[&str], &[&platform(), "app"]] {
        match has_own(&env) || machine_has_one() {
            true => assert_eq!(run(args).success().stdout.trim(), machine()),
            false => drop(run(args).code(3).says("it takes Linux 6.7 or later")),
        }
    }
}

#[test]
fn a_failed_step_is_entered_as_it_was_run() {
    let env = TestEnv::new()
        .bases([Base::ForeignBusybox])
        .file("Dockerfile", "FROM foreign-busybox\nRUN uname -m; false\n");
    let runs = has_own(&env) || machine_has_one();
    env.rbuild([&platform(), "."])
        .code(if runs { 1 } else { 3 });
    if runs {
        let inside = env.rbuild(["shell", "uname", "-m"]).success();
        assert_eq!(inside.stdout.trim(), machine());
    }
}

#[test]
fn doctor_tells_which_architectures_are_emulated() {
    let env = TestEnv::new();
    let doctor = env.rbuild(["doctor"]).success();
    let told = doctor.stdout.lines().any(|line| {
        let list = line.trim().strip_prefix("ok      programs for ");
        list.is_some_and(|list| list.split([',', ' ']).any(|word| word == FOREIGN))
    });
    let works = has_own(&env) || machine_has_one();
    assert_eq!(told, works, "{doctor}");
    if !machine_has_one() {
        let mut command = env.rbuild_command(["doctor"]);
        let without = env.run(command.env("PATH", "/nowhere")).success();
        assert!(
            without
                .stdout
                .contains("programs of other architectures cannot be executed: "),
            "{without}"
        );
    }
}

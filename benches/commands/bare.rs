//! The least a step can cost: namespaces, an overlay, exec.
//!
//! This program starts itself with [`FLAG`] for it, since a process that enters a user namespace must have one thread.

#![allow(
    unsafe_code,
    reason = "what is measured here is the system calls themselves"
)]

use std::ffi::CString;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use super::measure::Measured;

pub(crate) const FLAG: &str = "--bare-steps";

/// How long `count` steps take, each on a fresh overlay over `lower` whose program is `/true`.
pub(crate) fn steps(lower: &Path, scratch: &Path, count: usize) -> Measured<Duration> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new(this)
        .arg(FLAG)
        .args([lower, scratch])
        .arg(count.to_string())
        .output()
        .map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let nanos = text.trim().parse().map_err(|_| {
        format!(
            "bare steps: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        )
    })?;
    Ok(Duration::from_nanos(nanos))
}

pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let [lower, scratch, count] = args.as_slice() else {
        return ExitCode::FAILURE;
    };
    let count = count.to_str().and_then(|count| count.parse().ok());
    match run(lower.as_ref(), scratch.as_ref(), count.unwrap_or(1)) {
        Ok(time) => {
            println!("{}", time.as_nanos());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(lower: &Path, scratch: &Path, count: u32) -> io::Result<Duration> {
    let uid = rustix::process::getuid().as_raw();
    let gid = rustix::process::getgid().as_raw();
    // SAFETY: this process has one thread and no descriptors that others rely on.
    unsafe {
        rustix::thread::unshare_unsafe(
            rustix::thread::UnshareFlags::NEWUSER | rustix::thread::UnshareFlags::NEWNS,
        )?;
    }
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    let started = Instant::now();
    for index in 0..count {
        step(lower, &scratch.join(index.to_string()))?;
    }
    let time = started.elapsed();
    // overlayfs leaves directories of mode 0 behind, which only root of this namespace can look into.
    fs::remove_dir_all(scratch)?;
    Ok(time)
}

fn step(lower: &Path, scratch: &Path) -> io::Result<()> {
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| scratch.join(name));
    for dir in [&upper, &work, &merged] {
        fs::create_dir_all(dir)?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        lower.display(),
        upper.display(),
        work.display()
    );
    let options = CString::new(options)?;
    let merged = CString::new(merged.as_os_str().as_bytes())?;
    let mut command = Command::new("/true");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // SAFETY: the closure only makes system calls, on memory that was set up before the fork.
    unsafe {
        command.pre_exec(move || enter(&merged, &options));
    }
    let status = command.status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("the program: {status}")))
    }
}

/// Becomes the first process of new namespaces, in a root of its own; the process that was waits for it and ends as it does.
fn enter(merged: &CString, options: &CString) -> io::Result<()> {
    let check = |result: libc::c_int| match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    };
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: only system calls, all pointers are to C strings that outlive them; the process was forked and has one thread.
    unsafe {
        check(libc::unshare(namespaces))?;
        let child = check(libc::fork())?;
        if child != 0 {
            let mut status = 0;
            check(libc::waitpid(child, &raw mut status, 0))?;
            libc::_exit(if libc::WIFEXITED(status) {
                libc::WEXITSTATUS(status)
            } else {
                1
            });
        }
        let overlay = c"overlay".as_ptr();
        check(libc::mount(
            overlay,
            merged.as_ptr(),
            overlay,
            0,
            options.as_ptr().cast(),
        ))?;
        check(libc::chroot(merged.as_ptr()))?;
        check(libc::chdir(c"/".as_ptr()))?;
    }
    Ok(())
}

//! Counts the lines of standard input.

use std::io;
use std::io::BufRead;

fn count(input: impl BufRead) -> io::Result<u64> {
    input.lines().try_fold(0, |count, line| line.map(|_| count + 1))
}

fn main() -> io::Result<()> {
    let lines = count(io::stdin().lock())?;
    println!("{}", itoa::Buffer::new().format(lines));
    Ok(())
}

#[test]
fn lines_are_counted() {
    assert_eq!(count(&b"a\nb\nc"[..]).unwrap(), 3);
    assert_eq!(count(&b""[..]).unwrap(), 0);
}

//! What tells the programs of an architecture from others, and the smallest one of each.

/// An architecture whose programs can be emulated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Machine {
    /// As images name it (GOARCH).
    pub(super) arch: &'static str,
    /// As QEMU names it.
    pub(super) qemu: &'static str,
    class: Class,
    order: Order,
    /// `e_machine` (System V ABI, "ELF Header", and its registry).
    number: u16,
    /// `e_flags` without which a program is not taken for one of Linux' present ABI.
    flags: u32,
    code: Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Bits32 = 1,
    Bits64 = 2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Little = 1,
    Big = 2,
}

/// `exit(argc)`: the kernel leaves `argc` where the stack pointer points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Code {
    Bytes(&'static [u8]),
    /// In the machine's byte order.
    Words([u32; 3]),
}

macro_rules! machines {
    ($($arch:literal $qemu:literal $class:ident $order:ident $number:literal $flags:literal $code:expr;)*) => {
        &[$(Machine {
            arch: $arch,
            qemu: $qemu,
            class: Class::$class,
            order: Order::$order,
            number: $number,
            flags: $flags,
            code: $code,
        }),*]
    };
}

/// What Linux images are made for and QEMU emulates.
pub(super) const MACHINES: &[Machine] = machines! {
    "386" "i386" Bits32 Little 3 0 Code::Bytes(b"\x8b\x1c\x24\xb8\x01\0\0\0\xcd\x80");
    "amd64" "x86_64" Bits64 Little 62 0 Code::Bytes(b"\x8b\x3c\x24\xb8\x3c\0\0\0\x0f\x05");
    "arm" "arm" Bits32 Little 40 0x0500_0000 Code::Words([0xe59d_0000, 0xe3a0_7001, 0xef00_0000]);
    "arm64" "aarch64" Bits64 Little 183 0 Code::Words([0xf940_03e0, 0xd280_0ba8, 0xd400_0001]);
    "loong64" "loongarch64" Bits64 Little 258 0 Code::Words([0x28c0_0064, 0x0381_740b, 0x002b_0000]);
    "mips" "mips" Bits32 Big 8 0 Code::Words([0x8fa4_0000, 0x2402_0fa1, 0x0000_000c]);
    "mips64" "mips64" Bits64 Big 8 0 Code::Words([0xdfa4_0000, 0x2402_13c2, 0x0000_000c]);
    "mips64le" "mips64el" Bits64 Little 8 0 Code::Words([0xdfa4_0000, 0x2402_13c2, 0x0000_000c]);
    "mipsle" "mipsel" Bits32 Little 8 0 Code::Words([0x8fa4_0000, 0x2402_0fa1, 0x0000_000c]);
    "ppc64" "ppc64" Bits64 Big 21 2 Code::Words([0xe861_0000, 0x3800_0001, 0x4400_0002]);
    "ppc64le" "ppc64le" Bits64 Little 21 2 Code::Words([0xe861_0000, 0x3800_0001, 0x4400_0002]);
    "riscv64" "riscv64" Bits64 Little 243 0 Code::Words([0x0001_3503, 0x05d0_0893, 0x0000_0073]);
    "s390x" "s390x" Bits64 Big 22 0 Code::Bytes(b"\xe3\x20\xf0\0\0\x04\x0a\x01");
};

/// The bytes a program begins with that count: class, byte order, version, type and machine.
const HEAD: usize = 20;
/// Where programs are loaded: on a page boundary for the largest pages there are, above what no program may have.
const BASE: u64 = 0x0040_0000;
const PAGE: u64 = 0x1_0000;

impl Machine {
    /// The one that images name so.
    pub(super) fn of(arch: &str) -> Option<&'static Self> {
        MACHINES.iter().find(|machine| machine.arch == arch)
    }

    /// The 32-bit machine whose programs many a CPU of this one executes, and whose images stand in for its own.
    pub(super) fn sister(&self) -> Option<&'static Self> {
        match self.arch {
            "amd64" => Self::of("386"),
            "arm64" => Self::of("arm"),
            _ => None,
        }
    }

    /// What programs begin with, and which bits of it count, for binfmt_misc. The system they were made for and the
    /// version of its ABI do not: Linux executes them all.
    pub(super) fn magic(&self) -> ([u8; HEAD], [u8; HEAD]) {
        let mut magic = [0; HEAD];
        magic[..7].copy_from_slice(&[
            0x7f,
            b'E',
            b'L',
            b'F',
            self.class as u8,
            self.order as u8,
            1,
        ]);
        // ET_EXEC; ET_DYN, of which position-independent programs are, has one bit more.
        magic[16..18].copy_from_slice(&self.half(2));
        magic[18..].copy_from_slice(&self.half(self.number));
        let mut mask = [0xff; HEAD];
        mask[7..9].fill(0);
        mask[16..18].copy_from_slice(&self.half(0xfffe));
        (magic, mask)
    }

    /// A whole program that exits with the number of its arguments.
    pub(super) fn program(&self) -> Vec<u8> {
        let code: Vec<u8> = match self.code {
            Code::Bytes(bytes) => bytes.to_vec(),
            Code::Words(words) => words.iter().flat_map(|word| self.word(*word)).collect(),
        };
        let (header, segment) = match self.class {
            Class::Bits32 => (52, 32),
            Class::Bits64 => (64, 56),
        };
        let length = u64::from(header + segment) + code.len() as u64;
        let (magic, _) = self.magic();
        let mut file = magic.to_vec();
        file.extend(self.word(1));
        for address in [BASE + u64::from(header + segment), u64::from(header), 0] {
            file.extend(self.address(address));
        }
        file.extend(self.word(self.flags));
        for half in [header, segment, 1, 0, 0, 0] {
            file.extend(self.half(half));
        }
        // PT_LOAD, readable and executable: the whole file.
        file.extend(self.word(1));
        if self.class == Class::Bits64 {
            file.extend(self.word(5));
        }
        for address in [0, BASE, BASE, length, length] {
            file.extend(self.address(address));
        }
        if self.class == Class::Bits32 {
            file.extend(self.word(5));
        }
        file.extend(self.address(PAGE));
        file.extend(code);
        file
    }

    fn half(&self, value: u16) -> [u8; 2] {
        match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn word(&self, value: u32) -> [u8; 4] {
        match self.order {
            Order::Little => value.to_le_bytes(),
            Order::Big => value.to_be_bytes(),
        }
    }

    fn address(&self, value: u64) -> Vec<u8> {
        match (self.class, self.order) {
            (Class::Bits32, _) => self.word(value as u32).to_vec(),
            (Class::Bits64, Order::Little) => value.to_le_bytes().to_vec(),
            (Class::Bits64, Order::Big) => value.to_be_bytes().to_vec(),
        }
    }
}

#[cfg(test)]
mod t {
    use super::*;

    /// Magic and mask as Debian's qemu-user-static 7.2 registers them (/usr/lib/binfmt.d); without the bytes behind the
    /// machine, of which 32-bit mips has some.
    const DEBIAN: [(&str, &str, &str); 12] = [
        (
            "arm64",
            "7f454c460201010000000000000000000200b700",
            "ffffffffffffff00fffffffffffffffffeffffff",
        ),
        (
            "arm",
            "7f454c4601010100000000000000000002002800",
            "ffffffffffffff00fffffffffffffffffeffffff",
        ),
        (
            "riscv64",
            "7f454c460201010000000000000000000200f300",
            "ffffffffffffff00fffffffffffffffffeffffff",
        ),
        (
            "ppc64",
            "7f454c4602020100000000000000000000020015",
            "ffffffffffffff00fffffffffffffffffffeffff",
        ),
        (
            "ppc64le",
            "7f454c4602010100000000000000000002001500",
            "fffffffffffffffcfffffffffffffffffeffff00",
        ),
        (
            "s390x",
            "7f454c4602020100000000000000000000020016",
            "fffffffffffffffcfffffffffffffffffffeffff",
        ),
        (
            "mips",
            "7f454c4601020100000000000000000000020008",
            "ffffffffffffff00fefffffffffffffffffeffff",
        ),
        (
            "mipsle",
            "7f454c4601010100000000000000000002000800",
            "ffffffffffffff00fefffffffffffffffeffffff",
        ),
        (
            "mips64",
            "7f454c4602020100000000000000000000020008",
            "ffffffffffffff00fefffffffffffffffffeffff",
        ),
        (
            "mips64le",
            "7f454c4602010100000000000000000002000800",
            "ffffffffffffff00fefffffffffffffffeffffff",
        ),
        (
            "loong64",
            "7f454c4602010100000000000000000002000201",
            "fffffffffffffffc00fffffffffffffffeffffff",
        ),
        (
            "386",
            "7f454c4601010100000000000000000002000300",
            "ffffffffffffff00fffffffffffffffffeffffff",
        ),
    ];

    fn bytes(hex: &str) -> Vec<u8> {
        let pairs = hex.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn programs_are_told_apart_as_debian_does() {
        for (arch, magic, mask) in DEBIAN {
            let machine = Machine::of(arch).unwrap();
            let (own, own_mask) = machine.magic();
            let (magic, mask) = (bytes(magic), bytes(mask));
            for i in 0..HEAD {
                // Whatever Debian takes for a program of this machine, we do.
                assert_eq!(
                    magic[i] & own_mask[i],
                    own[i] & own_mask[i],
                    "{arch}: byte {i}"
                );
                // We look at what it looks at, but for the system's ABI, and at the machine whole.
                let counts = !matches!(i, 7 | 8) && (arch, i) != ("ppc64le", 19);
                assert!(!counts || own_mask[i] == mask[i], "{arch}: byte {i}");
            }
        }
    }

    #[test]
    fn no_program_is_of_two_machines() {
        for one in MACHINES {
            let program = one.program();
            for other in MACHINES {
                let (magic, mask) = other.magic();
                let fits = (0..HEAD).all(|i| program[i] & mask[i] == magic[i] & mask[i]);
                assert_eq!(fits, one == other, "{} and {}", one.arch, other.arch);
            }
        }
    }
}

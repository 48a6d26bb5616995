//! Numbers of the bake language: decimals, so that `0.1 + 0.2` is `0.3`, as with HCL's 512-bit floats.

use std::cmp::Ordering;
use std::fmt;

/// `digits × 10^-scale`, with no zero at the end of the digits where the scale is above 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Number {
    digits: i128,
    scale: u32,
}

/// Digits behind the point that a quotient is worked out to.
const QUOTIENT_SCALE: u32 = 18;

/// No number has more digits than this behind its point.
const MAX_SCALE: u32 = 36;

impl Number {
    pub(crate) const ZERO: Number = Number {
        digits: 0,
        scale: 0,
    };

    fn new(digits: i128, scale: u32) -> Self {
        // The least i128 has no positive counterpart, which `neg` and `abs` rely on.
        let (mut digits, mut scale) = (digits.max(-i128::MAX), scale);
        while scale > 0 && digits % 10 == 0 {
            digits /= 10;
            scale -= 1;
        }
        Self { digits, scale }
    }

    /// Reads `12`, `1.50`, `1e3`. `None` for what is no number or does not fit.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (rest, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.len() + fraction.len() == 0
            || !whole
                .bytes()
                .chain(fraction.bytes())
                .all(|b| b.is_ascii_digit())
        {
            return None;
        }
        let fraction = fraction.trim_end_matches('0');
        let mut digits = 0_i128;
        for byte in whole.bytes().chain(fraction.bytes()) {
            digits = digits
                .checked_mul(10)?
                .checked_add(i128::from(byte - b'0'))?;
        }
        if negative {
            digits = -digits;
        }
        let scale = i64::try_from(fraction.len()).ok()? - i64::from(exponent);
        if digits == 0 {
            return Some(Self::ZERO);
        }
        if scale >= 0 {
            let scale = u32::try_from(scale).ok().filter(|&s| s <= MAX_SCALE)?;
            return Some(Self::new(digits, scale));
        }
        let power = u32::try_from(-scale).ok()?;
        Some(Self::new(
            digits.checked_mul(10_i128.checked_pow(power)?)?,
            0,
        ))
    }

    /// The shortest decimal that stands for the float. `None` for infinities and what is no number.
    pub(crate) fn from_f64(value: f64) -> Option<Self> {
        value.is_finite().then(|| Self::parse(&value.to_string()))?
    }

    pub(crate) fn to_f64(self) -> f64 {
        self.to_string()
            .parse()
            .expect("a decimal is spelled as Rust reads one")
    }

    /// The number, if it is whole and fits.
    pub(crate) fn to_i64(self) -> Option<i64> {
        (self.scale == 0).then(|| i64::try_from(self.digits).ok())?
    }

    pub(crate) fn is_whole(self) -> bool {
        self.scale == 0
    }

    /// Both numbers' digits on the larger scale of the two.
    fn aligned(self, other: Self) -> Option<(i128, i128, u32)> {
        let scale = self.scale.max(other.scale);
        let lift = |n: Self| n.digits.checked_mul(10_i128.checked_pow(scale - n.scale)?);
        Some((lift(self)?, lift(other)?, scale))
    }

    pub(crate) fn add(self, other: Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Self::new(a.checked_add(b)?, scale))
    }

    pub(crate) fn sub(self, other: Self) -> Option<Self> {
        self.add(other.neg())
    }

    pub(crate) fn mul(self, other: Self) -> Option<Self> {
        let scale = self.scale + other.scale;
        let product = Self::new(self.digits.checked_mul(other.digits)?, scale);
        (product.scale <= MAX_SCALE).then_some(product)
    }

    /// The quotient, cut off after 18 digits where it does not end before. `None` for a divisor of 0.
    pub(crate) fn div(self, other: Self) -> Option<Self> {
        let (a, b, _) = self.aligned(other)?;
        let whole = a.checked_div(b)?;
        let mut digits = whole;
        let mut rest = a.checked_rem(b)?;
        let mut scale = 0;
        while rest != 0 && scale < QUOTIENT_SCALE {
            let Some((lifted, next)) = rest.checked_mul(10).zip(digits.checked_mul(10)) else {
                break;
            };
            digits = next.checked_add(lifted / b)?;
            rest = lifted % b;
            scale += 1;
        }
        Some(Self::new(digits, scale))
    }

    /// The remainder, with the sign of the dividend. `None` for a divisor of 0.
    pub(crate) fn rem(self, other: Self) -> Option<Self> {
        let (a, b, scale) = self.aligned(other)?;
        Some(Self::new(a.checked_rem(b)?, scale))
    }

    pub(crate) fn neg(self) -> Self {
        Self {
            digits: -self.digits,
            ..self
        }
    }

    pub(crate) fn abs(self) -> Self {
        Self {
            digits: self.digits.abs(),
            ..self
        }
    }

    pub(crate) fn floor(self) -> Self {
        Self::from(self.digits.div_euclid(self.unit()))
    }

    pub(crate) fn ceil(self) -> Self {
        self.neg().floor().neg()
    }

    /// Without what is behind the point.
    pub(crate) fn trunc(self) -> Self {
        Self::from(self.digits / self.unit())
    }

    fn unit(self) -> i128 {
        10_i128.pow(self.scale)
    }
}

impl From<i128> for Number {
    fn from(digits: i128) -> Self {
        Self::new(digits, 0)
    }
}

impl From<i64> for Number {
    fn from(value: i64) -> Self {
        Self::from(i128::from(value))
    }
}

impl From<usize> for Number {
    fn from(value: usize) -> Self {
        Self::from(i128::try_from(value).unwrap_or(i128::MAX))
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        match self.aligned(*other) {
            Some((a, b, _)) => a.cmp(&b),
            // One of them has too many digits to be put on the scale of the other: floats tell them apart.
            None => self.to_f64().total_cmp(&other.to_f64()),
        }
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scale == 0 {
            return write!(f, "{}", self.digits);
        }
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = self.digits.unsigned_abs().to_string();
        let scale = self.scale as usize;
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

#[cfg(test)]
mod t {
    use super::*;

    fn n(text: &str) -> Number {
        Number::parse(text).unwrap()
    }

    #[test]
    fn numbers_print_as_they_are_meant() {
        for (text, printed) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("1.50", "1.5"),
            ("1e3", "1000"),
            ("12.5e-1", "1.25"),
            ("-0.05", "-0.05"),
            ("100000000000000000000", "100000000000000000000"),
        ] {
            assert_eq!(n(text).to_string(), printed, "{text}");
        }
        for text in ["", ".", "1.2.3", "x", "1e999", "--1", "1e-99"] {
            assert_eq!(Number::parse(text), None, "{text}");
        }
    }

    #[test]
    fn sums_are_exact_and_quotients_end() {
        assert_eq!(n("0.1").add(n("0.2")), Some(n("0.3")));
        assert_eq!(n("10").div(n("4")), Some(n("2.5")));
        assert_eq!(n("10").div(n("3")).unwrap().floor(), n("3"));
        assert_eq!(n("-7").rem(n("3")), Some(n("-1")));
        assert_eq!(n("1").div(n("0")), None);
        assert_eq!(n("-1.5").floor(), n("-2"));
        assert_eq!(n("-1.5").ceil(), n("-1"));
        assert_eq!(n("-1.5").trunc(), n("-1"));
        assert!(n("0.30") < n("1e2"));
    }
}

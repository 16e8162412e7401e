//! Square roots modulo the prime p of P-256, to find the point with a given abscissa.
//!
//! Sealing a license tries abscissas until one is on the curve (section 5.2), two on average, and
//! the C library's general square root would cost as much as its whole point encryption. The
//! code runs in constant time: the abscissa holds a content key.
//!
//! Numbers are four 64-bit limbs, lowest first, in Montgomery form: a·2^256 mod p stands for a.

use subtle::{ConditionallySelectable, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

/// p = 2^256 − 2^224 + 2^192 + 2^96 − 1.
const P: [u64; 4] = [0xffff_ffff_ffff_ffff, 0x0000_0000_ffff_ffff, 0, 0xffff_ffff_0000_0001];
/// 2^512 mod p: brings a number into Montgomery form.
const R_SQUARED: Element = Element([
    0x0000_0000_0000_0003,
    0xffff_fffb_ffff_ffff,
    0xffff_ffff_ffff_fffe,
    0x0000_0004_ffff_fffd,
]);
/// The coefficient b of y² = x³ − 3x + b, not in Montgomery form.
const B: Element = Element([
    0x3bce_3c3e_27d2_604b,
    0x651d_06b0_cc53_b0f6,
    0xb3eb_bd55_7698_86bc,
    0x5ac6_35d8_aa3a_93e7,
]);

/// The Y = (x³ − 3x + b)^((p+1)/4), big-endian, of the curve's point with this big-endian
/// abscissa; `None` if the curve has none, or if x is not below p.
pub(super) fn ordinate(x: &[u8; 32]) -> Option<Zeroizing<[u8; 32]>> {
    let mut x = Element::from_bytes(x)?;
    let three = Element([3, 0, 0, 0]).times(&R_SQUARED);
    let mut square = x.squared(1).minus(&three).times(&x);
    square = square.minus(&Element([0; 4]).minus(&B.times(&R_SQUARED)));
    let mut root = square.root();
    let is_root = bool::from(root.squared(1).0.ct_eq(&square.0));
    let y = Zeroizing::new(root.to_bytes());
    x.0.zeroize();
    square.0.zeroize();
    root.0.zeroize();
    is_root.then_some(y)
}

/// A number below p.
#[derive(Clone, Copy)]
struct Element([u64; 4]);

impl Element {
    fn from_bytes(big_endian: &[u8; 32]) -> Option<Self> {
        let (chunks, _) = big_endian.as_chunks::<8>();
        let mut limbs = [0; 4];
        for (limb, chunk) in limbs.iter_mut().rev().zip(chunks) {
            *limb = u64::from_be_bytes(*chunk);
        }
        let (_, below_p) = subtracted(&limbs, &P);
        below_p.then(|| Self(limbs).times(&R_SQUARED))
    }

    fn to_bytes(self) -> [u8; 32] {
        let Self(limbs) = self.times(&Self([1, 0, 0, 0]));
        let mut bytes = [0; 32];
        let (chunks, _) = bytes.as_chunks_mut::<8>();
        for (chunk, limb) in chunks.iter_mut().zip(limbs.iter().rev()) {
            *chunk = limb.to_be_bytes();
        }
        bytes
    }

    /// self·other·2^−256 mod p.
    fn times(&self, other: &Self) -> Self {
        let [a, b, c, d, top] = other.0.iter().fold([0; 5], |sum, &limb| self.step(sum, limb));
        // Below 2p: p is taken off once, unless that would go below zero.
        let sum = [a, b, c, d];
        let (reduced, borrowed) = subtracted(&sum, &P);
        let keep = u8::from(borrowed) & u8::from(top == 0);
        Self(select(&reduced, &sum, keep))
    }

    /// (sum + self·limb) / 2^64 mod p, with sum and result below 2p. Because p ≡ −1 modulo 2^64,
    /// the multiple of p that clears the lowest limb is that limb itself.
    fn step(&self, [t0, t1, t2, t3, t4]: [u64; 5], limb: u64) -> [u64; 5] {
        let [a0, a1, a2, a3] = self.0;
        let (m, carry) = product(t0, a0, limb, 0);
        let (t1, carry) = product(t1, a1, limb, carry);
        let (t2, carry) = product(t2, a2, limb, carry);
        let (t3, carry) = product(t3, a3, limb, carry);
        let t4 = t4 + carry; // sum + self·limb < p·(2^64 + 1) < 2^320
        let [_, p1, _, p3] = P;
        let (t1, carry) = product(t1, m, p1, m);
        let (t2, carry) = product(t2, 0, 0, carry);
        let (t3, carry) = product(t3, m, p3, carry);
        let (t4, t5) = product(t4, 0, 0, carry);
        [t1, t2, t3, t4, t5]
    }

    fn minus(&self, other: &Self) -> Self {
        let (difference, borrowed) = subtracted(&self.0, &other.0);
        let mut carry = 0;
        let mut corrected = [0; 4];
        for ((out, &limb), &p) in corrected.iter_mut().zip(&difference).zip(&P) {
            (*out, carry) = product(limb, p, 1, carry);
        }
        Self(select(&difference, &corrected, borrowed.into()))
    }

    /// self^(2^times).
    fn squared(&self, times: usize) -> Self {
        (0..times).fold(*self, |power, _| power.times(&power))
    }

    /// self^((p+1)/4), a square root if there is one, because p ≡ 3 modulo 4. The exponent is
    /// (((2^32 − 1)·2^32 + 1)·2^96 + 1)·2^94.
    fn root(&self) -> Self {
        // `ones` is self^(2^width − 1).
        let ones = [1, 2, 4, 8, 16]
            .into_iter()
            .fold(*self, |ones, width| ones.squared(width).times(&ones));
        ones.squared(32).times(self).squared(96).times(self).squared(94)
    }
}

/// addend + a·b + carry, as low and high limb. Cannot overflow.
fn product(addend: u64, a: u64, b: u64, carry: u64) -> (u64, u64) {
    let wide = u128::from(addend) + u128::from(a) * u128::from(b) + u128::from(carry);
    (wide as u64, (wide >> 64) as u64)
}

/// a − b modulo 2^256, and whether b was greater.
fn subtracted(a: &[u64; 4], b: &[u64; 4]) -> ([u64; 4], bool) {
    let mut difference = [0; 4];
    let mut borrowed = false;
    for ((out, &a), &b) in difference.iter_mut().zip(a).zip(b) {
        (*out, borrowed) = a.borrowing_sub(b, borrowed);
    }
    (difference, borrowed)
}

/// `second` if `choose_second` is 1, `first` if it is 0, in the same time.
fn select(first: &[u64; 4], second: &[u64; 4], choose_second: u8) -> [u64; 4] {
    <[u64; 4]>::conditional_select(first, second, choose_second.into())
}

#[cfg(test)]
mod tests {
    use p256::elliptic_curve::sec1::ToSec1Point;
    use proptest::prelude::*;

    use super::*;

    /// The abscissa's points by an independent implementation, if there are any.
    fn ordinates(x: &[u8; 32]) -> Option<[Vec<u8>; 2]> {
        let read = |sign| {
            let key = p256::PublicKey::from_sec1_bytes(&[&[sign], &x[..]].concat()).ok()?;
            Some(key.to_sec1_point(false).as_bytes()[33..].to_vec())
        };
        Some([read(2)?, read(3)?])
    }

    fn agree(x: &[u8; 32]) -> bool {
        match (ordinate(x), ordinates(x)) {
            (None, None) => true,
            (Some(y), Some(both)) => both.contains(&y.to_vec()),
            _ => false,
        }
    }

    fn big_endian(limbs: [u64; 4]) -> [u8; 32] {
        let bytes: Vec<u8> = limbs.iter().rev().flat_map(|limb| limb.to_be_bytes()).collect();
        bytes.try_into().unwrap()
    }

    #[test]
    fn agrees_at_the_edges_of_the_field() {
        let [p0, p1, p2, p3] = P;
        for low in 0..50 {
            assert!(agree(&big_endian([low, 0, 0, 0])), "{low}");
            assert!(agree(&big_endian([p0 - low, p1, p2, p3])), "p - {low}");
            assert!(agree(&big_endian([low, 0, 0, p3])));
            assert!(agree(&big_endian([low, u64::MAX, u64::MAX, p3 - 1])));
        }
        assert!(ordinate(&big_endian(P)).is_none());
        assert!(ordinate(&[0xff; 32]).is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        #[test]
        fn agrees_with_an_independent_implementation(x: [u8; 32]) {
            prop_assert!(agree(&x));
        }
    }
}

//! EC ElGamal on P-256 (section 2.4), and the only protocol code that is `unsafe`.
//!
//! ```text
//! ciphertext  offset  size  field
//!             0       64    C1 = k·G          X‖Y, big-endian
//!             64      64    C2 = M + k·Pub    X‖Y, big-endian
//! ```
//!
//! The receiver computes M = C2 − d·C1. aws-lc-rs offers no point arithmetic, so this file calls
//! the C library that is below it. The rules that keep these calls sound:
//!
//! - Every object is owned by one of the wrappers below, which frees it once and is never null.
//!   The library wipes the memory of everything it frees, so secret intermediates do not linger.
//! - No wrapper is shared between threads, and no pointer outlives the call it is passed to.
//! - Points are read by `EC_POINT_oct2point`, which checks the curve equation; multiplications are
//!   the library's constant-time ones.
//! - There is one group, a static of the library, so points of different groups never meet.
#![allow(unsafe_code)]

use std::alloc::{Layout, handle_alloc_error};
use std::ffi::c_int;
use std::ptr::{NonNull, null, null_mut};

use aws_lc_sys::{
    BIGNUM, BN_bin2bn, BN_clear_free, EC_GROUP, EC_POINT, EC_POINT_add, EC_POINT_free,
    EC_POINT_invert, EC_POINT_mul, EC_POINT_new, EC_POINT_oct2point, EC_POINT_point2oct,
    EC_group_p256, ERR_clear_error, point_conversion_form_t,
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::ecc::{InvalidPoint, PrivateKey, PublicKey};
use super::field::ordinate;

/// Bytes of a ciphertext: two points.
pub const CIPHERTEXT_BYTES: usize = 128;

/// The group order n, big-endian.
const GROUP_ORDER: [u8; 32] = *b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\
                                 \xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51";

/// A source of random bytes, passed in so that the protocol code stays pure.
///
/// It must fill the whole slice with bytes that an attacker cannot guess.
pub type Random<'a> = &'a mut dyn FnMut(&mut [u8]);

/// A plaintext point M, as X‖Y, always on the curve. Carries secrets: no `Debug`, wiped when
/// dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Point([u8; 64]);

impl Point {
    /// X, 32 bytes, big-endian.
    pub fn x(&self) -> &[u8] {
        self.0.split_at(32).0
    }

    /// The point with this abscissa (big-endian), or `None` if the curve has none.
    ///
    /// Of the two points the one with Y = (x³ − 3x + b)^((p+1)/4) is returned. Receivers use X
    /// alone.
    pub fn from_x(x: &[u8; 32]) -> Option<Self> {
        let y = ordinate(x)?;
        let mut point = Self([0; 64]);
        let (head, tail) = point.0.split_at_mut(32);
        head.copy_from_slice(x);
        tail.copy_from_slice(y.as_ref());
        Some(point)
    }

    /// A random point: k·G for a random k.
    pub fn random(random: Random<'_>) -> Self {
        loop {
            let k = Integer::from_bytes(random_scalar(random).as_ref());
            if let Some(xy) = CurvePoint::base_times(&k).to_xy() {
                return Self(*xy);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn from_xy(xy: &[u8; 64]) -> Option<Self> {
        CurvePoint::from_xy(xy).map(|_| Self(*xy))
    }

    #[cfg(test)]
    pub(super) fn xy(&self) -> &[u8; 64] {
        &self.0
    }
}

/// Encrypts `point` to `recipient`: C1‖C2. Draws k (32 bytes, again while outside 1…n−1) from
/// `random`.
pub fn encrypt(recipient: &PublicKey, point: &Point, random: Random<'_>) -> [u8; CIPHERTEXT_BYTES] {
    loop {
        let k = random_scalar(random);
        // `None` only if M = −k·Pub, when C2 has no coordinates: another k is drawn.
        if let Some(ciphertext) = encrypt_with(recipient, point, &k) {
            return ciphertext;
        }
    }
}

/// Decrypts C1‖C2.
///
/// # Errors
/// Any length but 128 bytes, points off the curve, and M at infinity.
pub fn decrypt(key: &PrivateKey, ciphertext: &[u8]) -> Result<Point, InvalidPoint> {
    let ciphertext: &[u8; CIPHERTEXT_BYTES] = ciphertext.try_into().map_err(|_| InvalidPoint)?;
    let (c1, c2) = ciphertext.split_at(64);
    let c1 = CurvePoint::from_xy(c1).ok_or(InvalidPoint)?;
    let c2 = CurvePoint::from_xy(c2).ok_or(InvalidPoint)?;
    let mut shared = c1.times(&Integer::from_bytes(key.scalar()));
    shared.negate();
    let m = c2.plus(&shared).to_xy().ok_or(InvalidPoint)?;
    Ok(Point(*m))
}

/// Whether X‖Y satisfies the curve equation, with both coordinates below p.
pub(super) fn is_on_curve(xy: &[u8; 64]) -> bool {
    CurvePoint::from_xy(xy).is_some()
}

fn encrypt_with(
    recipient: &PublicKey,
    point: &Point,
    k: &[u8; 32],
) -> Option<[u8; CIPHERTEXT_BYTES]> {
    let k = Integer::from_bytes(k);
    let c1 = CurvePoint::base_times(&k).to_xy()?;
    let mask = CurvePoint::from_xy(recipient.xy())?.times(&k);
    let c2 = CurvePoint::from_xy(&point.0)?.plus(&mask).to_xy()?;
    let mut ciphertext = [0; CIPHERTEXT_BYTES];
    let (head, tail) = ciphertext.split_at_mut(64);
    head.copy_from_slice(c1.as_ref());
    tail.copy_from_slice(c2.as_ref());
    Some(ciphertext)
}

/// A scalar in 1…n−1, by rejection: the chance of a second draw is below 2⁻³².
fn random_scalar(random: Random<'_>) -> Zeroizing<[u8; 32]> {
    let mut scalar = Zeroizing::new([0; 32]);
    while *scalar == [0; 32] || *scalar >= GROUP_ORDER {
        random(scalar.as_mut());
    }
    scalar
}

/// A point of the curve, infinity included, in the library's own form.
struct CurvePoint(NonNull<EC_POINT>);

impl CurvePoint {
    fn new() -> Self {
        // SAFETY: the group is a live static; the result is owned here or null.
        Self(owned(unsafe { EC_POINT_new(group()) }))
    }

    /// Reads 64 bytes X‖Y; `None` if they are not a finite point of the curve.
    fn from_xy(xy: &[u8]) -> Option<Self> {
        let mut encoded = Zeroizing::new([0; 65]);
        let (form, coordinates) = encoded.split_first_mut()?;
        *form = point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED as u8;
        if coordinates.len() != xy.len() {
            return None;
        }
        coordinates.copy_from_slice(xy);
        let point = Self::new();
        // SAFETY: reads exactly the bytes passed with their length; `point` is live and of this
        // group; a null context is allowed. The point is used only if the curve equation holds.
        let on_curve = unsafe {
            EC_POINT_oct2point(
                group(),
                point.0.as_ptr(),
                encoded.as_ptr(),
                encoded.len(),
                null_mut(),
            )
        };
        if on_curve != 1 {
            // SAFETY: no arguments; empties this thread's error queue.
            unsafe { ERR_clear_error() };
            return None;
        }
        Some(point)
    }

    /// X‖Y, or `None` at infinity.
    fn to_xy(&self) -> Option<Zeroizing<[u8; 64]>> {
        let mut encoded = Zeroizing::new([0; 65]);
        // SAFETY: writes at most the bytes passed with their length; `self` is live and of this
        // group; a null context is allowed.
        let written = unsafe {
            EC_POINT_point2oct(
                group(),
                self.0.as_ptr(),
                point_conversion_form_t::POINT_CONVERSION_UNCOMPRESSED,
                encoded.as_mut_ptr(),
                encoded.len(),
                null_mut(),
            )
        };
        // Infinity is written as a single zero byte.
        if written != encoded.len() {
            return None;
        }
        let mut xy = Zeroizing::new([0; 64]);
        xy.copy_from_slice(encoded.split_first()?.1);
        Some(xy)
    }

    /// k·G.
    fn base_times(k: &Integer) -> Self {
        let product = Self::new();
        // SAFETY: `product` and `k` are live; no other point is passed; a null context is allowed.
        done(unsafe {
            EC_POINT_mul(group(), product.0.as_ptr(), k.raw(), null(), null(), null_mut())
        });
        product
    }

    /// k·self.
    fn times(&self, k: &Integer) -> Self {
        let product = Self::new();
        // SAFETY: all three objects are live and the points are of this group; a null scalar for
        // the generator and a null context are allowed.
        done(unsafe {
            EC_POINT_mul(group(), product.0.as_ptr(), null(), self.0.as_ptr(), k.raw(), null_mut())
        });
        product
    }

    fn plus(&self, other: &Self) -> Self {
        let sum = Self::new();
        // SAFETY: all three points are live and of this group; a null context is allowed.
        done(unsafe {
            EC_POINT_add(group(), sum.0.as_ptr(), self.0.as_ptr(), other.0.as_ptr(), null_mut())
        });
        sum
    }

    fn negate(&mut self) {
        // SAFETY: the point is live, of this group, and borrowed exclusively.
        done(unsafe { EC_POINT_invert(group(), self.0.as_ptr(), null_mut()) });
    }
}

impl Drop for CurvePoint {
    fn drop(&mut self) {
        // SAFETY: owned, and freed here only. The library wipes what it frees.
        unsafe { EC_POINT_free(self.0.as_ptr()) }
    }
}

/// A non-negative integer.
struct Integer(NonNull<BIGNUM>);

impl Integer {
    fn from_bytes(big_endian: &[u8]) -> Self {
        // SAFETY: reads exactly the bytes passed with their length; a null target asks for a new
        // integer, which is owned here.
        Self(owned(unsafe { BN_bin2bn(big_endian.as_ptr(), big_endian.len(), null_mut()) }))
    }

    fn raw(&self) -> *mut BIGNUM {
        self.0.as_ptr()
    }
}

impl Drop for Integer {
    fn drop(&mut self) {
        // SAFETY: owned, and freed here only.
        unsafe { BN_clear_free(self.0.as_ptr()) }
    }
}

fn group() -> *const EC_GROUP {
    // SAFETY: no arguments; returns a static of the library, initialized once, safe to share.
    unsafe { EC_group_p256() }
}

/// A constructor of the library returns null for one reason.
fn owned<T>(pointer: *mut T) -> NonNull<T> {
    NonNull::new(pointer).unwrap_or_else(|| out_of_memory())
}

/// With valid operands, which the wrappers guarantee, an operation fails for the same reason.
fn done(status: c_int) {
    if status != 1 {
        out_of_memory()
    }
}

/// Ends the process as a failed allocation in Rust does.
pub(super) fn out_of_memory() -> ! {
    handle_alloc_error(Layout::new::<[u8; CIPHERTEXT_BYTES]>())
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use p256::elliptic_curve::PrimeField;
    use p256::elliptic_curve::sec1::ToSec1Point;
    use serde_json::Value;

    use super::*;

    fn golden() -> Value {
        serde_json::from_str(include_str!("../../tests/golden/elgamal.json")).unwrap()
    }

    fn hex(value: &Value) -> Vec<u8> {
        HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap()
    }

    fn key(value: &Value) -> PrivateKey {
        PrivateKey::from_scalar(&hex(value).try_into().unwrap()).unwrap()
    }

    fn os_random(bytes: &mut [u8]) {
        aws_lc_rs::rand::fill(bytes).unwrap();
    }

    #[test]
    fn golden_encryptions_are_reproduced_and_decrypted() {
        for case in golden()["valid"].as_array().unwrap() {
            let key = key(&case["d"]);
            let point = Point::from_xy(&hex(&case["m"]).try_into().unwrap()).unwrap();
            let k = hex(&case["k"]);
            let ciphertext = encrypt(key.public(), &point, &mut |out| out.copy_from_slice(&k));
            assert_eq!(ciphertext.to_vec(), hex(&case["ciphertext"]), "{}", case["name"]);

            let opened = decrypt(&key, &ciphertext).unwrap();
            assert_eq!(opened.xy(), point.xy());
            assert_eq!(opened.x()[16..], hex(&case["symmetric_key"]));
        }
    }

    #[test]
    fn golden_bad_ciphertexts_are_refused() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let wmrm = key(&vectors["keys"]["wmrm"]["d"]);
        let cases = golden();
        let cases = cases["invalid_for_wmrm"].as_array().unwrap();
        assert_eq!(cases.len(), 6);
        for case in cases {
            let outcome = decrypt(&wmrm, &hex(&case["ciphertext"]));
            assert_eq!(outcome.err(), Some(InvalidPoint), "{}", case["why"]);
        }
    }

    #[test]
    fn the_plaintext_point_of_the_challenge_vector_is_found() {
        let vectors: Value =
            serde_json::from_str(include_str!("../../tests/golden/vectors.json")).unwrap();
        let case = &vectors["elgamal"];
        let wmrm = key(&vectors["keys"]["wmrm"]["d"]);
        let point = decrypt(&wmrm, &hex(&case["ciphertext"])).unwrap();
        assert_eq!(point.xy().to_vec(), hex(&case["m"]));
        assert_eq!(point.x(), [hex(&case["iv"]), hex(&case["aes_key"])].concat());
    }

    #[test]
    fn random_points_survive_encryption_and_agree_with_an_independent_curve() {
        for _ in 0..8 {
            let key = PrivateKey::generate();
            let point = Point::random(&mut os_random);
            let ciphertext = encrypt(key.public(), &point, &mut os_random);
            let d = p256::Scalar::from_repr((*key.scalar()).into()).unwrap();
            let [c1, c2] = [0, 64].map(|at| {
                let sec1 = [&[4], &ciphertext[at..at + 64]].concat();
                p256::ProjectivePoint::from(
                    p256::PublicKey::from_sec1_bytes(&sec1).unwrap().to_projective(),
                )
            });
            let m = (c2 - c1 * d).to_affine().to_sec1_point(false);
            assert_eq!(m.as_bytes()[1..], point.xy()[..]);
            assert_eq!(decrypt(&key, &ciphertext).unwrap().xy(), point.xy());
        }
    }

    #[test]
    fn finds_a_point_for_exactly_the_abscissas_that_have_one() {
        for seed in 0u8..64 {
            let mut x = [0; 32];
            aws_lc_rs::rand::fill(&mut x).unwrap();
            x[0] = seed;
            let theirs = p256::PublicKey::from_sec1_bytes(&[&[2], &x[..]].concat());
            let found = Point::from_x(&x);
            assert_eq!(found.is_some(), theirs.is_ok());
            if let Some(point) = found {
                assert!(is_on_curve(point.xy()));
                assert_eq!(point.x(), x);
            }
        }
    }

    #[test]
    fn zero_and_oversized_scalars_are_drawn_again() {
        let mut draws = [[0; 32], GROUP_ORDER, [0xff; 32], [7; 32]].into_iter();
        let scalar = random_scalar(&mut |out| out.copy_from_slice(&draws.next().unwrap()));
        assert_eq!(*scalar, [7; 32]);
    }

    #[test]
    fn a_sum_at_infinity_is_refused() {
        let key = PrivateKey::generate();
        // C1 = G and C2 = d·G give M = d·G − d·G.
        let one = Integer::from_bytes(&[1]);
        let g = CurvePoint::base_times(&one).to_xy().unwrap();
        let ciphertext = [&g[..], key.public().xy()].concat();
        assert_eq!(decrypt(&key, &ciphertext).err(), Some(InvalidPoint));
    }
}

//! A tone, as a packager makes content: FLAC in fragmented MP4, encrypted after ISO/IEC 23001-7
//! (`cenc`: AES-CTR over whole samples, eight-byte IVs).
//!
//! ```text
//! ftyp
//! moov  mvhd
//!       trak … stsd  enca  dfLa                       the codec
//!                          sinf  frma schm schi/tenc  what encrypts it, and the KID
//!       mvex/trex
//!       pssh                                          one of Clear Key, one of PlayReady
//! moof  mfhd
//!       traf  tfhd tfdt trun                          duration and size of each sample
//!             saiz saio senc                          the IV of each sample
//! mdat
//! ```
//!
//! FLAC, because a verbatim frame is plain enough to be written by hand.

use aes::Aes128;
use aes::cipher::{Block, BlockCipherEncrypt, KeyInit};
use license_ledger::playready::header::{AlgId, HeaderVersion, Object, Pssh};
use license_ledger::playready::kid::Kid;
use uuid::Uuid;

use crate::device::header;

/// What a page passes to `MediaSource.addSourceBuffer` and to EME.
pub const CONTENT_TYPE: &str = "audio/mp4; codecs=\"flac\"";
/// How long it plays, in seconds.
pub const SECONDS: u32 = 2;

const RATE: u32 = 8_000;
const BLOCK: u16 = 800;
const FRAMES: u8 = 20;
const _: () = assert!(SECONDS * RATE == BLOCK as u32 * FRAMES as u32);

/// The system id of the common PSSH box, which Clear Key reads: W3C "cenc" initialization data.
const COMMON_SYSTEM_ID: Uuid = Uuid::from_u128(0x1077_efec_c0b2_4d02_ace3_3c1e_52e2_fb4b);

/// The file, encrypted with the key of `kid`.
pub fn encrypted(kid: Uuid, key: &[u8; 16]) -> Vec<u8> {
    let frames: Vec<_> = (0..FRAMES).map(frame).collect();
    let samples: Vec<_> = (1..).zip(&frames).map(|(iv, frame)| ctr(key, iv, frame)).collect();
    let [first, ..] = frames.as_slice() else { panic!("no frame") };
    [ftyp(), moov(kid, first.len()), moof(&samples), boxed(b"mdat", &[&samples.concat()])].concat()
}

/// AES-CTR with the IV in the upper half of the counter block.
fn ctr(key: &[u8; 16], iv: u64, plain: &[u8]) -> Vec<u8> {
    let cipher = Aes128::new(&(*key).into());
    let blocks = plain.chunks(16).enumerate().flat_map(|(counter, chunk)| {
        let counter = u128::from(iv) << 64 | counter as u128;
        let mut stream: Block<Aes128> = counter.to_be_bytes().into();
        cipher.encrypt_block(&mut stream);
        chunk.iter().zip(stream).map(|(byte, pad)| byte ^ pad).collect::<Vec<_>>()
    });
    blocks.collect()
}

/// One FLAC frame (RFC 9639, section 9): 16-bit mono at 8 kHz, not compressed.
fn frame(number: u8) -> Vec<u8> {
    // Sync and fixed block size; block size in 16 bits at the end, 8 kHz; mono, 16 bits; number.
    let mut frame = vec![0xFF, 0xF8, 0x74, 0x08, number];
    frame.extend((BLOCK - 1).to_be_bytes());
    frame.push(crc(&frame, 0x07, 8).to_be_bytes()[1]);
    frame.push(0b0000_0010); // a verbatim subframe
    let start = u32::from(number) * u32::from(BLOCK);
    for at in start..start + u32::from(BLOCK) {
        let angle = std::f64::consts::TAU * 440.0 * f64::from(at) / f64::from(RATE);
        frame.extend(((angle.sin() * 8_000.0) as i16).to_be_bytes());
    }
    frame.extend(crc(&frame, 0x8005, 16).to_be_bytes());
    frame
}

/// A CRC of 8 or 16 bits, high bit first, starting at zero.
fn crc(bytes: &[u8], polynomial: u16, bits: u32) -> u16 {
    let (top, mask) = (1 << (bits - 1), u16::MAX >> (16 - bits));
    bytes.iter().fold(0, |crc, byte| {
        let mut crc = crc ^ u16::from(*byte) << (bits - 8);
        for _ in 0..8 {
            crc = if crc & top == 0 { crc << 1 } else { crc << 1 ^ polynomial };
        }
        crc & mask
    })
}

/// The FLAC stream's description: block and frame sizes, rate, channels, bits, samples, no MD5.
fn stream_info(frame_bytes: usize) -> Vec<u8> {
    let frame_bytes = &u32::try_from(frame_bytes).unwrap().to_be_bytes()[1..];
    let bits_and_samples = u64::from(RATE) << 44 | 15 << 36 | u64::from(SECONDS * RATE);
    let block = BLOCK.to_be_bytes();
    let info = [&block[..], &block, frame_bytes, frame_bytes, &bits_and_samples.to_be_bytes()];
    [&[0x80, 0, 0, 34][..], &info.concat(), &[0; 16]].concat()
}

fn boxed(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes()[..], kind, &body].concat()
}

/// A box with version and flags.
fn full(kind: &[u8; 4], version: u8, flags: u32, parts: &[&[u8]]) -> Vec<u8> {
    let head = (u32::from(version) << 24 | flags).to_be_bytes();
    boxed(kind, &[&head, &parts.concat()])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn ftyp() -> Vec<u8> {
    boxed(b"ftyp", &[b"iso6", &words(&[0]), b"iso6dash"])
}

fn moov(kid: Uuid, frame_bytes: usize) -> Vec<u8> {
    let identity = words(&[0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000]);
    // Version 0: times of creation, time scale, duration; then rate 1, volume 1, next track 2.
    let mvhd = [words(&[0, 0, RATE, 0, 0x1_0000, 0x0100_0000, 0, 0]), identity.clone()].concat();
    let mvhd = full(b"mvhd", 0, 0, &[&mvhd, &[0; 24], &words(&[2])]);
    let tkhd = [words(&[0, 0, 1, 0, 0, 0, 0, 0, 0x0100_0000]), identity, words(&[0, 0])].concat();
    let trak = boxed(b"trak", &[&full(b"tkhd", 0, 7, &[&tkhd]), &mdia(kid, frame_bytes)]);
    let mvex = boxed(b"mvex", &[&full(b"trex", 0, 0, &[&words(&[1, 1, 0, 0, 0])])]);
    boxed(b"moov", &[&mvhd, &trak, &mvex, &common_pssh(kid), &playready_pssh(kid)])
}

fn mdia(kid: Uuid, frame_bytes: usize) -> Vec<u8> {
    let undetermined = 0x55C4_0000; // the language
    let mdhd = full(b"mdhd", 0, 0, &[&words(&[0, 0, RATE, 0, undetermined])]);
    let hdlr = full(b"hdlr", 0, 0, &[&[0; 4], b"soun", &[0; 13]]);
    let url = full(b"url ", 0, 1, &[]);
    let dinf = boxed(b"dinf", &[&full(b"dref", 0, 0, &[&words(&[1]), &url])]);
    let stsd = full(b"stsd", 0, 0, &[&words(&[1]), &enca(kid, frame_bytes)]);
    let empty = |kind| full(kind, 0, 0, &[&words(&[0])]);
    let stsz = full(b"stsz", 0, 0, &[&words(&[0, 0])]);
    let stbl = [&stsd[..], &empty(b"stts"), &empty(b"stsc"), &stsz, &empty(b"stco")];
    let smhd = full(b"smhd", 0, 0, &[&[0; 4]]);
    boxed(b"mdia", &[&mdhd, &hdlr, &boxed(b"minf", &[&smhd, &dinf, &boxed(b"stbl", &stbl)])])
}

/// The description of encrypted samples.
fn enca(kid: Uuid, frame_bytes: usize) -> Vec<u8> {
    let data_reference = [0, 0, 0, 0, 0, 0, 0, 1];
    let one_channel_16_bits = words(&[0, 0, 0x0001_0010, 0, RATE << 16]);
    let dfla = full(b"dfLa", 0, 0, &[&stream_info(frame_bytes)]);
    // Encrypted, with IVs of eight bytes.
    let tenc = full(b"tenc", 0, 0, &[&[0, 0, 1, 8], kid.as_bytes()]);
    let schm = full(b"schm", 0, 0, &[b"cenc", &words(&[0x1_0000])]);
    let sinf = [&boxed(b"frma", &[b"fLaC"])[..], &schm, &boxed(b"schi", &[&tenc])];
    boxed(b"enca", &[&data_reference, &one_channel_16_bits, &dfla, &boxed(b"sinf", &sinf)])
}

fn common_pssh(kid: Uuid) -> Vec<u8> {
    let id = COMMON_SYSTEM_ID.as_bytes();
    full(b"pssh", 1, 0, &[id, &words(&[1]), kid.as_bytes(), &words(&[0])])
}

/// The header of the service for the same KID: one file plays on both kinds of device.
fn playready_pssh(kid: Uuid) -> Vec<u8> {
    let object = Object::new(&header(HeaderVersion::V4_2, &[kid], Some(AlgId::AesCtr)));
    Pssh { kids: Some(vec![Kid::from(kid)]), object }.encode().unwrap()
}

fn moof(samples: &[Vec<u8>]) -> Vec<u8> {
    let build = |data_at: usize, ivs_at: usize| {
        let count = u32::try_from(samples.len()).unwrap();
        let [data_at, ivs_at] = [data_at, ivs_at].map(|at| u32::try_from(at).unwrap());
        let lengths = samples.iter().map(|sample| u32::try_from(sample.len()).unwrap());
        let run: Vec<_> = lengths.flat_map(|length| [u32::from(BLOCK), length]).collect();
        let ivs: Vec<_> = (1..=u64::from(count)).flat_map(u64::to_be_bytes).collect();
        // Offsets count from the start of this box.
        let tfhd = full(b"tfhd", 0, 0x02_0000, &[&words(&[1])]);
        let tfdt = full(b"tfdt", 0, 0, &[&words(&[0])]);
        let trun = full(b"trun", 0, 0x301, &[&words(&[count, data_at]), &words(&run)]);
        let saiz = full(b"saiz", 0, 0, &[&[8], &words(&[count])]);
        let saio = full(b"saio", 0, 0, &[&words(&[1, ivs_at])]);
        let senc = full(b"senc", 0, 0, &[&words(&[count]), &ivs]);
        let traf = boxed(b"traf", &[&tfhd, &tfdt, &trun, &saiz, &saio, &senc]);
        boxed(b"moof", &[&full(b"mfhd", 0, 0, &[&words(&[1])]), &traf])
    };
    let size = build(0, 0).len();
    build(size + 8, size - 8 * samples.len())
}

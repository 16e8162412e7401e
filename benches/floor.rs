//! The crypto floor: what an acquisition cannot do without, in a bare loop on every core.
//!
//! One challenge verified (SHA-256 of the signed element, ECDSA), one client data decrypted (EC
//! ElGamal, AES-CBC), one license sealed (the search for an abscissa, EC ElGamal, AES-CMAC), one
//! response signed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use aes::Aes128;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use cmac::{Cmac, KeyInit, Mac};
use license_ledger::playready::ecc::{PrivateKey, PublicKey};
use license_ledger::playready::elgamal::{self, Point};
use sha2::{Digest, Sha256};

use super::cpu;
use super::lab::os_random;
use super::report::cores;

/// One challenge and one license, taken apart.
pub struct Floor {
    signed_element: Vec<u8>,
    signed_info: Vec<u8>,
    signature: [u8; 64],
    signer: PublicKey,
    server: PrivateKey,
    encrypted_key: [u8; elgamal::CIPHERTEXT_BYTES],
    encrypted_data: Vec<u8>,
    recipient: PublicKey,
}

/// How it went.
pub struct Bare {
    pub per_second: f64,
    /// Processor time of one acquisition.
    pub cpu_us: f64,
}

impl Floor {
    /// From a real challenge and the size of the client data in it.
    pub fn of(challenge: &[u8], client_data: &[u8]) -> Self {
        let (device, server, recipient) =
            (PrivateKey::generate(), PrivateKey::generate(), PrivateKey::generate());
        let signed_info = element(challenge, "SignedInfo");
        let point = Point::random(&mut os_random);
        let encryptor = cbc::Encryptor::<Aes128>::new(&KEY.into(), &KEY.into());
        Self {
            signed_element: element(challenge, "LA"),
            signature: device.sign(&signed_info),
            signed_info,
            signer: *device.public(),
            encrypted_key: elgamal::encrypt(server.public(), &point, &mut os_random),
            encrypted_data: encryptor.encrypt_padded_vec::<Pkcs7>(client_data),
            server,
            recipient: *recipient.public(),
        }
    }

    /// Runs on all cores for `period`.
    pub fn measure(&self, period: Duration) -> Bare {
        let started = Instant::now();
        let (count, cpu_seconds) = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..cores())
                .map(|_| {
                    scope.spawn(|| {
                        let mut count = 0_u64;
                        while started.elapsed() < period {
                            self.once();
                            count += 1;
                        }
                        (count, cpu::of_thread())
                    })
                })
                .collect();
            let threads = threads.into_iter().map(|thread| thread.join().unwrap());
            threads.fold((0, 0.0), |(count, cpu), thread| (count + thread.0, cpu + thread.1))
        });
        let count = count as f64;
        Bare {
            per_second: count / started.elapsed().as_secs_f64(),
            cpu_us: cpu_seconds / count * 1e6,
        }
    }

    fn once(&self) {
        black_box(Sha256::digest(&self.signed_element));
        self.signer.verify(&self.signed_info, &self.signature).unwrap();
        let point = elgamal::decrypt(&self.server, &self.encrypted_key).unwrap();
        black_box(point.x());
        let decryptor = cbc::Decryptor::<Aes128>::new(&KEY.into(), &KEY.into());
        black_box(decryptor.decrypt_padded_vec::<Pkcs7>(&self.encrypted_data).unwrap());

        let mut x = [7; 32];
        let point = loop {
            os_random(&mut x[..16]);
            if let Some(point) = Point::from_x(&x) {
                break point;
            }
        };
        black_box(elgamal::encrypt(&self.recipient, &point, &mut os_random));
        let mut mac = <Cmac<Aes128> as KeyInit>::new(&KEY.into());
        mac.update(&[7; LICENSE_BYTES]);
        black_box(mac.finalize());
        black_box(self.server.sign(&self.signed_info));
    }
}

/// The first element called `name`, tags included.
fn element(document: &[u8], name: &str) -> Vec<u8> {
    let text = std::str::from_utf8(document).unwrap();
    let (start, end) = (format!("<{name} "), format!("</{name}>"));
    let start = text.find(&start).unwrap();
    let end = text.find(&end).unwrap() + end.len();
    text[start..end].into()
}

const KEY: [u8; 16] = [3; 16];
const LICENSE_BYTES: usize = 480;

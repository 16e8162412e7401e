//! The device's side: makes signed and encrypted challenges.

use super::super::acquire::AcquireRequest;
use super::super::client_data::{self, ClientData};
use super::super::ecc::{PrivateKey, PublicKey};
use super::super::elgamal::Random;
use super::super::signature::{self, SIGNED_ATTRIBUTES};
use super::super::soap;
use super::super::xml::Writer;
use super::Message;

/// Makes the challenges of one device.
pub struct ChallengeSigner {
    key: PrivateKey,
    /// The client data, which is the same in every challenge.
    client_data: Vec<u8>,
    server: PublicKey,
}

impl ChallengeSigner {
    /// A signer for the device whose leaf certificate has `key` as its SIGN key, towards the
    /// server that decrypts with the private half of `server`.
    pub fn new(key: PrivateKey, client_data: &ClientData, server: PublicKey) -> Self {
        Self { key, client_data: client_data.to_xml(), server }
    }

    /// The SOAP document that carries `message`.
    pub fn sign(&self, message: &Message, random: Random<'_>) -> Vec<u8> {
        let operation = message.operation();
        soap::write_request(operation, |w| {
            let start = w.position();
            let [xmlns, id] = SIGNED_ATTRIBUTES;
            let attributes = [xmlns, id, ("xml:space", "preserve")];
            let count = if matches!(message, Message::Acquire(_)) { 3 } else { 2 };
            let attributes = attributes.get(..count).unwrap_or_default();
            w.element(operation.signed_element(), attributes, |w| {
                write_fields(message, w);
                client_data::write(w, &self.client_data, &self.server, random);
            });
            signature::write(w, start, &self.key, true);
        })
    }
}

fn write_fields(message: &Message, w: &mut Writer) {
    match message {
        Message::Acquire(request) => AcquireRequest::write(request, w),
        Message::Acknowledge(acknowledgement) => acknowledgement.write(w),
        Message::Delete(request) => request.write(w),
    }
}

//! Signatures by the Standard Webhooks specification.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::Sha256;

/// The specification asks for at least this many bytes.
const SHORTEST_KEY: usize = 24;

/// The keys that sign; several while one replaces another.
#[derive(Clone, Default)]
pub(super) struct Keys(Vec<SecretSlice<u8>>);

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.0.len())
    }
}

impl Keys {
    /// The keys of secrets in the form `whsec_` and base64.
    ///
    /// # Errors
    /// What is wrong with one, continuing a sentence after the key; never the secret.
    pub(super) fn parse(secrets: &[SecretString]) -> Result<Self, String> {
        secrets.iter().map(parse_key).collect::<Result<_, _>>().map(Self)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value of `webhook-signature` for this message; `None` without keys.
    pub(super) fn sign(&self, id: &str, timestamp_s: i64, body: &[u8]) -> Option<String> {
        let signatures = self.0.iter().map(|key| {
            // HMAC takes keys of every length.
            let mut mac = Hmac::<Sha256>::new_from_slice(key.expose_secret()).ok()?;
            mac.update(format!("{id}.{timestamp_s}.").as_bytes());
            mac.update(body);
            Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
        });
        let signatures: Vec<String> = signatures.collect::<Option<_>>()?;
        (!signatures.is_empty()).then(|| signatures.join(" "))
    }
}

fn parse_key(secret: &SecretString) -> Result<SecretSlice<u8>, String> {
    const FORM: &str = "has a secret that is not whsec_ followed by base64: write it like \
                        whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let encoded = secret.expose_secret().strip_prefix("whsec_").ok_or(FORM)?;
    let key = STANDARD.decode(encoded).map_err(|_| FORM)?;
    if key.len() < SHORTEST_KEY {
        return Err(format!(
            "has a secret of {} bytes, but needs at least {SHORTEST_KEY}: make a longer one",
            key.len()
        ));
    }
    Ok(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(secrets: &[&str]) -> Result<Keys, String> {
        Keys::parse(&secrets.iter().map(|&secret| secret.into()).collect::<Vec<_>>())
    }

    /// The example of the specification's libraries.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let keys = keys(&["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"]).unwrap();
        let signed =
            keys.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
        assert_eq!(signed.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_key_signs_and_none_is_shown() {
        let both = keys(&[
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        ])
        .unwrap();
        assert_eq!(both.sign("a", 1, b"{}").unwrap().split(' ').count(), 2);
        assert_eq!(format!("{both:?}"), "Keys(2)");
        assert_eq!(Keys::default().sign("a", 1, b"{}"), None);
    }

    #[test]
    fn a_secret_that_is_none_is_refused_and_not_shown() {
        for bad in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_***hush***"] {
            let why = keys(&[bad]).unwrap_err();
            assert!(why.contains("not whsec_ followed by base64"), "{why}");
            assert!(!why.contains("hush"));
        }
        let why = keys(&["whsec_aHVzaA=="]).unwrap_err();
        assert_eq!(why, "has a secret of 4 bytes, but needs at least 24: make a longer one");
    }
}

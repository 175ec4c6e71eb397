//! Certificates that a test makes, and a receiver that shows one.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode, SslVersion};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// Signs certificates.
pub(super) struct Authority {
    certificate: X509,
    key: PKey<Private>,
}

/// A certificate and its PKCS #8 key, in PEM form.
pub(super) type Pem = (Vec<u8>, Vec<u8>);

impl Authority {
    pub(super) fn new() -> Self {
        let key = new_key();
        let mut builder = certificate("the tests", &key);
        let basic = BasicConstraints::new().critical().ca().build().expect("an extension");
        builder.append_extension(basic).expect("an extension");
        builder.set_issuer_name(&named("the tests")).expect("an issuer");
        builder.sign(&key, MessageDigest::sha256()).expect("a signature");
        Self { certificate: builder.build(), key }
    }

    pub(super) fn pem(&self) -> Vec<u8> {
        self.certificate.to_pem().expect("PEM")
    }

    /// A certificate for an address or a name.
    pub(super) fn issue(&self, name: &str) -> Pem {
        let key = new_key();
        let mut builder = certificate(name, &key);
        builder.set_issuer_name(self.certificate.subject_name()).expect("an issuer");
        let mut names = SubjectAlternativeName::new();
        match name.parse::<std::net::IpAddr>() {
            Ok(_) => names.ip(name),
            Err(_) => names.dns(name),
        };
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = names.build(&context).expect("an extension");
        builder.append_extension(names).expect("an extension");
        builder.sign(&self.key, MessageDigest::sha256()).expect("a signature");
        let pem = builder.build().to_pem().expect("PEM");
        (pem, key.private_key_to_pem_pkcs8().expect("PEM"))
    }
}

fn new_key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).expect("a curve");
    PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key")
}

fn named(name: &str) -> X509Name {
    let mut names = X509NameBuilder::new().expect("a name");
    names.append_entry_by_nid(Nid::COMMONNAME, name).expect("a name");
    names.build()
}

/// Not signed yet.
fn certificate(name: &str, key: &PKey<Private>) -> X509Builder {
    let mut builder = X509::builder().expect("a certificate");
    builder.set_version(2).expect("a version");
    let serial = BigNum::from_u32(fastrand::u32(1..)).and_then(|number| number.to_asn1_integer());
    builder.set_serial_number(&serial.expect("a number")).expect("a number");
    builder.set_subject_name(&named(name)).expect("a name");
    builder.set_pubkey(key).expect("a key");
    let days = |days| Asn1Time::days_from_now(days).expect("a time");
    builder.set_not_before(&days(0)).expect("a time");
    builder.set_not_after(&days(1)).expect("a time");
    builder
}

/// Answers each request with 204, on a thread for each connection.
pub(super) struct TlsReceiver {
    port: u16,
    served: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
}

impl TlsReceiver {
    /// Shows this certificate, and wants one that `clients` has signed, if that is given.
    pub(super) fn start((certificate, key): Pem, clients: Option<&Authority>) -> Self {
        let mut builder =
            SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).expect("an acceptor");
        builder
            .set_certificate(&X509::from_pem(&certificate).expect("PEM"))
            .expect("a certificate");
        builder.set_private_key(&PKey::private_key_from_pem(&key).expect("PEM")).expect("a key");
        if let Some(clients) = clients {
            let mut store = X509StoreBuilder::new().expect("a store");
            store.add_cert(clients.certificate.clone()).expect("a root");
            builder.set_verify_cert_store(store.build()).expect("a store");
            builder.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
            // With 1.3 the client would learn of a refusal only after its request.
            builder.set_max_proto_version(Some(SslVersion::TLS1_2)).expect("a version");
        }
        let acceptor = builder.build();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let [served, refused] = [(); 2].map(|()| Arc::new(AtomicUsize::new(0)));
        let (serves, refuses) = (served.clone(), refused.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (acceptor, serves, refuses) =
                    (acceptor.clone(), serves.clone(), refuses.clone());
                std::thread::spawn(move || match acceptor.accept(stream) {
                    Ok(mut stream) => {
                        let mut bytes = [0; 16 * 1024];
                        let mut heard = Vec::new();
                        // The body of a job ends with two braces.
                        while !heard.ends_with(b"}}") {
                            match stream.read(&mut bytes) {
                                Ok(read) if read > 0 => heard.extend_from_slice(&bytes[..read]),
                                _ => return,
                            }
                        }
                        serves.fetch_add(1, Ordering::SeqCst);
                        let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
                        stream.write_all(answer.as_bytes()).ok();
                        stream.shutdown().ok();
                    }
                    Err(_) => {
                        refuses.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        Self { port, served, refused }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// How many requests it has answered.
    pub(super) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    /// How many connections came to no end of their handshake.
    pub(super) fn refused(&self) -> usize {
        self.refused.load(Ordering::SeqCst)
    }
}

//! Files that cannot be used are named, with what is wrong in them.

use super::*;

fn error(issued: &Issued, root: &str) -> String {
    load(issued, root).unwrap_err().to_string()
}

#[test]
fn unusable_files_are_named() {
    let (good, root) = (authority().issue(&[NODE]), &authority().root);
    let changed = |chain: Option<&str>, key: Option<&str>| Issued {
        chain: chain.map_or_else(|| good.chain.clone(), str::to_owned),
        key: key.map_or_else(|| good.key.clone(), str::to_owned),
    };
    for (issued, root, expected) in [
        (changed(Some(""), None), root.as_str(), "cert.pem: no certificate found"),
        (changed(Some(&good.key), None), root, "cert.pem: no certificate found"),
        (changed(None, Some("")), root, "key.pem: no private key found"),
        (changed(None, Some(&good.chain)), root, "key.pem: no private key found"),
        (good.clone(), "", "roots.pem: no certificate found"),
        (authority().issue(&["https://example.org/"]), root, "cert.pem: the certificate names no role"),
    ] {
        let error = error(&issued, root);
        assert!(error.contains(expected), "{error}");
    }
    let other = authority().issue(&[CLIENT]);
    let mixed = error(&changed(None, Some(&other.key)), root);
    assert!(mixed.contains("the key in key.pem does not belong to the certificate in cert.pem"), "{mixed}");
}

#[test]
fn a_certificate_says_who_it_is_and_how_long_it_lasts() {
    let grant = "dynamomini://grant/app/get+put/user%2F";
    let material = load(&authority().issue(&[CLIENT, "https://example.org/", grant]), &authority().root).unwrap();
    assert_eq!(material.identity().uris(), [CLIENT, grant]);
    assert!(material.certificate().not_after_ms > material.certificate().not_before_ms);
    assert_ne!(material.certificate().fingerprint, [0; 32]);
    assert!(!format!("{material:?}").contains("key"), "a key must not be printed");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let (env, address) = (Env::real(), taken.local_addr().unwrap());
    let config = BindConfig {
        socket: Socket::Address(address),
        material: material(NODE),
        provider: ring_provider(),
        keys: EndpointKeys::generate(&env),
        settings: TransportSettings::default(),
    };
    let error = Endpoint::bind(config, &env).unwrap_err().to_string();
    assert!(error.contains(&format!("UDP port {address} is in use")), "{error}");
}

use std::io::Write;

use super::*;

fn load(text: &str) -> Result<Source, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Source::merge(Some(&file.into_temp_path()), std::iter::empty())
}

fn error_of<S: Section>(text: &str) -> String {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let path = file.into_temp_path();
    let result = Source::merge(Some(&path), std::iter::empty()).and_then(|source| source.section::<S>().map(|_| ()));
    result.unwrap_err().to_string().replace(&path.display().to_string(), "FILE")
}

#[test]
fn defaults_load_and_print_as_toml_that_loads() {
    let source = Source::merge(None, std::iter::empty()).unwrap();
    let text = source.effective().unwrap();
    assert_eq!(load(&text).unwrap().effective().unwrap(), text);
    let sections =
        |text: &str| -> Vec<String> { text.lines().filter(|line| line.starts_with('[')).map(str::to_owned).collect() };
    let (mut printed, mut known) = (sections(&text), sections(DEFAULTS));
    printed.sort();
    known.sort();
    assert_eq!(printed, known, "every section is printed");
}

#[test]
fn mistakes_of_the_wire_are_named() {
    assert!(
        error_of::<Padding>("[padding]\nscheme = [[5, 1]]\n").starts_with("padding.scheme: must be at most 32 pairs")
    );
    let too_large = error_of::<Padding>("[padding]\nscheme = [[0, 70000]]\n");
    assert!(too_large.starts_with("padding.scheme: invalid value") && too_large.ends_with("(FILE:2)"), "{too_large}");
    assert!(
        error_of::<Notices>("[notices]\nquota_percent = [95, 80]\n")
            .starts_with("notices.quota_percent: must be rising")
    );
    assert!(
        error_of::<Tunnel>("[tunnel]\nmin_client_version = \"x\"\n")
            .starts_with("tunnel.min_client_version: must be numbers")
    );
    assert!(error_of::<Mux>("[mux]\nearly_streams = 0\n").starts_with("mux.early_streams"));
    let features =
        Source::with([("HTTVPS_CLIENT__FEATURES", "[\"udp\"]")]).unwrap().section::<Client>().unwrap().features;
    assert!(features.has(crate::frame::Feature::Udp) && !features.has(crate::frame::Feature::Open));
}

#[test]
fn answers_are_kept_for_longer_than_requests_take() {
    let short = error_of::<Control>("[control]\nidempotency_ttl = \"15s\"\n");
    assert_eq!(short, "control.idempotency_ttl: must be longer than request_timeout (FILE:2)");
}

#[test]
fn mistakes_of_certificates_are_named() {
    let acme = |text: &str| error_of::<Acme>(&format!("[acme]\n{text}\n"));
    assert!(acme("names = [\"*.example.com\"]").starts_with("acme.names: *.example.com can only be proven by DNS-01"));
    for bad in ["Vpn.example.com", "a..b", "-a.example", "10.0.0.1", ""] {
        assert!(acme(&format!("names = [\"{bad}\"]")).contains("is no host name in lower case"), "{bad}");
    }
    assert!(acme("directory = \"http://ca.example\"").ends_with("must begin with https:// (FILE:2)"));
    assert!(acme("eab_key_id = \"k\"").starts_with("acme.eab_key_id: eab_key_id and eab_key must be set together"));
    let tls = |text: &str| error_of::<Tls>(&format!("[tls]\n{text}\n"));
    assert!(tls("ticket_secret = \"short\"").starts_with("tls.ticket_secret: must have at least 32 characters"));
    let empty = tls("self_signed = true\n[[tls.certificates]]\ncert = \"a\"\nkey = \"\"");
    assert_eq!(empty, "tls.certificates: each must have cert and key (FILE:3)");
}

#[test]
fn numbers_out_of_their_range_are_named_with_it() {
    assert_eq!(
        error_of::<Gateway>("[gateway]\nreport_retry = \"0s\"\n"),
        "gateway.report_retry: must be 10ms to 1m (FILE:2)"
    );
    assert_eq!(
        error_of::<Gateway>("[gateway]\njwks_refresh = \"500ms\"\n"),
        "gateway.jwks_refresh: must be at least jwks_retry (FILE:2)"
    );
    assert_eq!(error_of::<Net>("[net]\nbacklog = 0\n"), "net.backlog: must be 1 to 65535 (FILE:2)");
    assert_eq!(error_of::<Mux>("[mux]\nping_jitter = 0.6\n"), "mux.ping_jitter: must be 0 to 0.5 (FILE:2)");
    assert_eq!(
        error_of::<Mux>("[mux]\nping_after = \"40s\"\n"),
        "mux.dead_after: must be longer than ping_after by more than ping_jitter"
    );
    assert_eq!(
        error_of::<Mux>("[mux]\ncontrol_frames_per_message = 100\n"),
        "mux.control_frames_per_message: must be at least control_frames (FILE:2)"
    );
    assert_eq!(error_of::<RateLimit>("[rate_limit]\nturn = \"2s\"\n"), "rate_limit.turn: must be 1ms to 1s (FILE:2)");
    assert_eq!(error_of::<Log>("[log]\nflush_timeout = \"1m\"\n"), "log.flush_timeout: must be 0s to 10s (FILE:2)");
    assert_eq!(
        error_of::<Control>("[control]\nnode_cache = \"1m\"\n"),
        "control.node_cache: must be 0s to 10s (FILE:2)"
    );
    assert_eq!(
        error_of::<Sessions>("[sessions]\nsweep_batch = 0\n"),
        "sessions.sweep_batch: must be 1 to 100000 (FILE:2)"
    );
    assert_eq!(error_of::<Probe>("[probe]\nhalf_closes = 0\n"), "probe.half_closes: must be 1 to 20 (FILE:2)");
    assert_eq!(
        error_of::<Portal>("[portal]\ncallers_max = 1\n"),
        "portal.callers_max: must be 1024 to 16777216 (FILE:2)"
    );
}

#[test]
fn secrets_are_redacted_wherever_they_are_printed() {
    let source =
        Source::with([("HTTVPS_CONTROL__SIGNING_KEY", "hush"), ("HTTVPS_DATABASE__URL", "sqlite://hush")]).unwrap();
    let text = source.effective().unwrap();
    assert!(!text.contains("hush") && text.contains("signing_key = \"<redacted>\""), "{text}");
    assert!(!format!("{:?}", source.section::<Control>().unwrap()).contains("hush"));
}

#[test]
fn blanks_around_secrets_are_cut_and_line_ends_inside_refused() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b" hush\r\n\n").unwrap();
    let path = file.into_temp_path();
    for written in [" hush\\n".to_owned(), format!("file:{}", path.display())] {
        let source = load(&format!("[admin]\nkey = \"{written}\"\n")).unwrap();
        assert_eq!(source.section::<Admin>().unwrap().key.expose(), "hush");
    }
    let error = error_of::<Admin>("[admin]\nkey = \"a\\nb\"\n");
    assert_eq!(error, "admin.key: must not contain line ends or other control characters (FILE:2)");
    let source = Source::with([("HTTVPS_TUNNEL__PATH", "/x\n"), ("HTTVPS_MUX__STREAMS", " 7\n")]).unwrap();
    assert_eq!(source.section::<Tunnel>().unwrap().path, "/x");
    assert_eq!(source.section::<Mux>().unwrap().streams, 7);
}

#[test]
fn the_environment_beats_the_file_and_strings_stay_text() {
    let vars = [("HTTVPS_TUNNEL__PATH", "/0123"), ("HTTVPS_CLIENT__REGION", "0123"), ("HTTVPS_MUX__STREAMS", "7")];
    let source = Source::with(vars).unwrap();
    assert_eq!(source.section::<Client>().unwrap().region, "0123");
    assert_eq!(source.section::<Mux>().unwrap().streams, 7);
    assert!(Source::with([("HTTVPS_PORT", "tcp://10.0.0.1:1")]).is_ok());
    let error = Source::with([("HTTVPS_MUX__STREEMS", "1")]).unwrap_err();
    assert_eq!(error.to_string(), "mux.streems: unknown key (HTTVPS_MUX__STREEMS)");
}

#[test]
fn mistakes_are_named_with_their_line() {
    assert_eq!(error_of::<Mux>("\n[mux]\nstreams = 0\n"), "mux.streams: must be 1 to 65536 (FILE:3)");
    assert_eq!(error_of::<Mux>("[mux]\nstreems = 1\n"), "mux.streems: unknown key (FILE:2)");
    assert_eq!(error_of::<Mux>("[mox]\nstreams = 1\n"), "mox: unknown key (FILE:1)");
    let wrong_type = error_of::<Mux>("[mux]\n\nstreams = \"many\"\n");
    assert!(wrong_type.starts_with("mux.streams: ") && wrong_type.ends_with("(FILE:3)"), "{wrong_type}");
    let duration = error_of::<Mux>("[mux]\nping_after = \"soon\"\n");
    assert!(duration.starts_with("mux.ping_after: ") && duration.ends_with("(FILE:2)"), "{duration}");
    let syntax = error_of::<Mux>("[mux]\nstreams = = 1\n");
    assert!(syntax.starts_with("--config: ") && syntax.ends_with("(FILE:2)"), "{syntax}");
    let secret = error_of::<Control>("[control]\nsigning_key = \"file:/nonexistent/key\"\n");
    assert!(secret.starts_with("control.signing_key: /nonexistent/key: ") && secret.ends_with("(FILE:2)"), "{secret}");
}

#[test]
fn a_clear_text_control_url_stays_on_loopback() {
    let with = |url: &str| Source::with([("HTTVPS_GATEWAY__CONTROL_URL", url)]).unwrap().section::<Gateway>();
    for good in ["https://control.example", "http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost:8080"] {
        assert!(with(good).is_ok(), "{good}");
    }
    for bad in ["http://10.0.0.1:8080", "http://localhost.example", "ftp://127.0.0.1", "nonsense"] {
        assert!(with(bad).is_err(), "{bad}");
    }
}

#[test]
fn listeners_and_networks_are_lists_or_text_with_commas() {
    let both = ["0.0.0.0:443", "[::]:443"];
    for text in ["0.0.0.0:443, [::]:443", "0.0.0.0:443,[::]:443,"] {
        let source = Source::with([("HTTVPS_GATEWAY__LISTEN", text)]).unwrap();
        assert!(source.section::<Gateway>().unwrap().listen.iter().eq(both), "{text}");
    }
    let source = load("[gateway]\nlisten = [\"0.0.0.0:443\", \"[::]:443\"]\n").unwrap();
    assert!(source.section::<Gateway>().unwrap().listen.iter().eq(both));
    assert!(source.effective().unwrap().contains("listen = [\"0.0.0.0:443\", \"[::]:443\"]"));
    assert!(load("[gateway]\nlisten = \"\"\n").unwrap().section::<Gateway>().unwrap().listen.is_empty());
    for text in ["[\"10.1.2.3/8\", \"::ffff:192.0.2.1\", \"fd00::/8\"]", "10.0.0.0/8, 192.0.2.1, fd00::/8"] {
        let trusted = Source::with([("HTTVPS_BEHIND__TRUSTED", text)]).unwrap().section::<Behind>().unwrap().trusted;
        let has = |ip: &str| trusted.contains(ip.parse().unwrap());
        assert!(has("10.9.9.9") && has("::ffff:10.9.9.9") && has("192.0.2.1") && has("fd00::1"), "{text}");
        assert!(!has("11.0.0.1") && !has("192.0.2.2") && !has("fe80::1"), "{text}");
    }
}

#[test]
fn mistakes_about_proxies_are_named() {
    let trusted = |text: &str| error_of::<Behind>(&format!("[behind]\ntrusted = [{text}]\n"));
    assert_eq!(
        trusted("\"10.0.0.0/33\""),
        "behind.trusted: \"10.0.0.0/33\" is no network, such as 10.0.0.0/8 or fd00::/8, and no address (FILE:2)"
    );
    assert!(trusted("\"example.com\"").contains("is no network"));
    assert!(trusted("\"::ffff:10.0.0.0/104\"").contains("write the IPv4 network"));
    assert!(trusted("5").starts_with("behind.trusted: "));
    assert!(
        error_of::<Behind>("[behind]\nclear_listen = \"127.0.0.1:1\"\n")
            .starts_with("behind.trusted: must name the proxies that clear_listen is for")
    );
    assert!(error_of::<Behind>("[behind]\nheader = \"x forwarded\"\n").starts_with("behind.header: must be a header"));
    assert!(error_of::<Gateway>("[gateway]\nlisten = 443\n").starts_with("gateway.listen: "));
}

#[test]
fn a_key_is_named_by_its_section_and_its_field() {
    let key = key!(ClientConfig, min_client_version);
    assert_eq!((key.section(), key.name()), ("client_config", "min_client_version"));
    assert_eq!(Invalid::new(key, "must be set").to_string(), "client_config.min_client_version: must be set");
}

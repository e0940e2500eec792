//! Importing nodes, and creating them from the command line.

use httvps::shadowsocks::NodeKey;
use reqwest::Method;
use serde_json::json;

use crate::support::control::{ADMIN_KEY, Control, REGION, admin_env, register_gateway, start_with_region};
use crate::support::database::{BOTH, Kind};
use crate::support::deployment::Deployment;
use crate::support::node::{CHACHA, Node};
use crate::support::process::run;

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_line_does_not_stop_an_import() {
    for kind in BOTH {
        let control = start_with_region(kind, &[]).await;
        let key = |host: u8| format!("ss://aes-256-gcm:hush@10.0.0.{host}:8388");
        control.create("nodes", json!({ "region": REGION, "access_key": key(9) })).await;
        let keys = [key(1), "ss://rc4:hush@10.0.0.2:1".into(), key(1), key(9), key(3)];
        let body = json!({ "region": REGION, "access_keys": keys, "weight": 3 });
        let answer = control.create("nodes/import", body).await;
        let lines = |what: &str| -> Vec<u64> {
            answer[what].as_array().unwrap().iter().map(|item| item["line"].as_u64().unwrap()).collect()
        };
        assert_eq!((lines("created"), lines("failed")), (vec![1, 5], vec![2, 3, 4]), "{kind:?} {answer}");
        let codes: Vec<_> = answer["failed"].as_array().unwrap().iter().map(|item| item["code"].clone()).collect();
        assert_eq!(codes, ["INVALID", "CONFLICT", "CONFLICT"]);
        assert!(answer["failed"][1]["detail"].as_str().unwrap().contains("line 1"), "{answer}");
        let rows = control.list("nodes").await;
        assert_eq!((rows.len(), &rows[1]["weight"]), (3, &json!(3)));
        let path = "/api/v1/admin/nodes/import";
        for (keys, code) in [(Vec::new(), "MISSING"), (vec![key(4); 1001], "TOO_MANY")] {
            let body = json!({ "region": REGION, "access_keys": keys });
            let (status, answer) = control.ask(Method::POST, path, ADMIN_KEY, Some(&body)).await;
            assert_eq!((status.as_u16(), &answer["errors"][0]["code"]), (422, &json!(code)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_import_command_names_the_lines_of_the_file() {
    let control = start_with_region(Kind::Sqlite, &[]).await;
    let file = control.folder.path().join("keys.txt");
    let text = "# two nodes\nss://aes-256-gcm:hush@10.0.0.1:8388\n\nnonsense\nss://aes-256-gcm:hush@10.0.0.2:8388\n";
    std::fs::write(&file, text).unwrap();
    let argument = format!("file={}", file.display());
    let args = ["admin", "nodes", "import", "region=eu-1", &argument];
    let (code, stdout, stderr) = run(&args, &admin_env(&control)).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "error: 1 of 3 keys failed\n"), "{stdout}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0].starts_with("line 2: created ") && lines[0].ends_with(" 10.0.0.1:8388"), "{stdout}");
    assert!(lines[1].starts_with("line 4: INVALID: "), "{stdout}");
    assert!(lines[2].starts_with("line 5: created "), "{stdout}");
    let args = ["admin", "nodes", "import", "region=eu-1", "file=/nothing"];
    let (code, _, stderr) = run(&args, &admin_env(&control)).await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nothing"), "{stderr}");
    assert_eq!(run(&["admin", "nodes", "import", "region=eu-1"], &admin_env(&control)).await.0, Some(2));
}

/// Creates a node from the command line and waits until it is healthy.
async fn created_and_waited(control: &Control, node: &NodeKey, patience: &str) -> (Option<i32>, String, String) {
    let (ip, port) = (format!("internal_ip={}", node.host), format!("port={}", node.port));
    let (method, password) = (format!("method={}", node.method), format!("password={}", node.password));
    let args = ["admin", "nodes", "create", "region=eu-1", &ip, &port, &method, &password, "--wait", "--wait-timeout"];
    let args: Vec<&str> = args.into_iter().chain([patience]).collect();
    run(&args, &admin_env(control)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_new_node_says_why_it_takes_no_traffic() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    let good = Node::start(CHACHA).await;
    let (code, stdout, stderr) = created_and_waited(&deployment.control, &good.key, "60s").await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.lines().any(|line| line.starts_with("healthy after ")), "{stdout}");
    let mut absent = Node::start(CHACHA).await;
    absent.kill().await;
    let (code, stdout, stderr) = created_and_waited(&deployment.control, &absent.key, "5s").await;
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stderr.contains("gateway: connection refused"), "{stderr}");
    assert!(!stdout.contains("healthy after"), "{stdout}");
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_new_node_names_the_missing_gateway() {
    let control = start_with_region(Kind::Sqlite, &[]).await;
    let key = |port| NodeKey { host: "127.0.0.1".into(), port, method: "aes-256-gcm".into(), password: "hush".into() };
    let (code, _, stderr) = created_and_waited(&control, &key(1), "100ms").await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no gateway may use region eu-1"), "{stderr}");
    register_gateway(&control, "gw-1").await;
    let (code, _, stderr) = created_and_waited(&control, &key(2), "100ms").await;
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no gateway is online"), "{stderr}");
}

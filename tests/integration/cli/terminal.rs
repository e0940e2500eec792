//! What a person at a terminal meets: completions, man pages, whole lists, questions, and why `connect` was refused.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::control::{ADMIN_KEY, Control, admin_env, id};
use crate::support::database::Kind;
use crate::support::deployment::Deployment;
use crate::support::environment::{Env, env};
use crate::support::node::CHACHA;
use crate::support::process::run;
use crate::support::terminal::on_a_terminal;

const PLANS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn completions_know_every_command() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let (code, stdout, stderr) = run(&["completions", shell], &Env::new()).await;
        assert_eq!(code, Some(0), "{stderr}");
        let words = ["serve-control", "healthcheck", "completions", "subscriptions", "top-up", "wait-timeout"];
        for word in words.into_iter().filter(|word| (shell, *word) != ("fish", "wait-timeout")) {
            assert!(stdout.contains(word), "{shell} does not know {word}");
        }
    }
    let (_, script, _) = run(&["completions", "bash"], &Env::new()).await;
    let words = "COMP_WORDS=(httvps admin subscriptions to); COMP_CWORD=3; _httvps httvps to subscriptions; echo ${COMPREPLY[@]}";
    let output = Command::new("bash").args(["-c", &format!("{script}\n{words}")]).output().await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "top-up", "{:?}", output.stderr);
    let (code, _, stderr) = run(&["completions", "csh"], &Env::new()).await;
    assert_eq!(code, Some(2));
    assert!(stderr.contains("[possible values: bash, elvish, fish, powershell, zsh]"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn man_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man/man1");
    let (code, stdout, stderr) = run(&["man", pages.to_str().unwrap()], &Env::new()).await;
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.lines().all(|line| std::path::Path::new(line).exists()), "{stdout}");
    for (page, text) in [
        ("httvps.1", "serve\\-gateway"),
        ("httvps-connect.1", "\\-\\-transport"),
        ("httvps-admin.1", "subscriptions"),
        ("httvps-admin-subscriptions-top-up.1", "payment_id"),
    ] {
        let written = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(written.contains(".TH ") && written.contains(text), "{page}: {written}");
    }
    let mode = std::fs::metadata(pages.join("httvps.1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o044, 0o044, "others may read it");
    let (code, _, stderr) = run(&["man", "/dev/null"], &Env::new()).await;
    assert_eq!((code, stderr.starts_with("error: /dev/null: ")), (Some(2), true), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_has_all_pages_if_it_is_asked_for_them() {
    let control = Control::start(Kind::Sqlite).await;
    for number in 0..PLANS {
        control.create("plans", json!({ "name": format!("plan {number}") })).await;
    }
    let env = admin_env(&control);
    let (_, first, _) = run(&["admin", "plans", "list", "limit=2"], &env).await;
    assert_eq!((first.lines().count(), first.contains("\nmore: cursor=")), (4, true), "{first}");
    for limit in ["limit=1", "limit=2", "limit=5", "limit=100"] {
        let (code, all, stderr) = run(&["admin", "plans", "list", limit, "--all"], &env).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!((all.lines().count(), all.contains("more:")), (PLANS + 1, false), "{all}");
        let (_, json, _) = run(&["admin", "plans", "list", "--json", limit, "--all"], &env).await;
        let json: Value = serde_json::from_str(&json).unwrap();
        let names: Vec<&str> =
            json["items"].as_array().unwrap().iter().map(|plan| plan["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["plan 0", "plan 1", "plan 2", "plan 3", "plan 4"]);
        assert_eq!(json["next"], Value::Null);
    }
    let (code, _, stderr) = run(&["admin", "plans", "list", "user=x", "--all"], &env).await;
    assert_eq!(code, Some(1), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_asks_on_a_terminal_only() {
    let control = Control::start(Kind::Sqlite).await;
    let env = admin_env(&control);
    let user = async |name: &str| id(&control.create("users", json!({ "identifier": name })).await);
    let count = async || control.list("users").await.len();
    let ann = user("ann@example.com").await;
    let delete = format!("admin users delete {ann}");
    for answer in ["n\n", "\n", "yesterday\n"] {
        let (code, shown) = on_a_terminal(&delete, answer, &env).await;
        assert_eq!(code, Some(1), "{shown}");
        assert!(shown.contains(&format!("delete the user ann@example.com ({ann})? Devices, codes, subscr")), "{shown}");
        assert!(shown.contains("error: nothing was deleted"), "{shown}");
    }
    assert_eq!(count().await, 1);
    let (code, shown) = on_a_terminal(&delete, "y\n", &env).await;
    assert_eq!((code, count().await), (Some(0), 0), "{shown}");
    let (code, shown) = on_a_terminal(&delete, "", &env).await;
    assert_eq!((code, shown.contains("NOT_FOUND"), shown.contains("[y/N]")), (Some(1), true, false), "{shown}");
    let (code, shown) = on_a_terminal(&format!("{delete} --yes"), "", &env).await;
    assert_eq!((code, shown.contains("[y/N]")), (Some(1), false), "{shown}");
    let bob = user("bob@example.com").await;
    let (code, shown) = on_a_terminal(&format!("admin users delete {bob} --yes"), "", &env).await;
    assert_eq!((code, shown.as_str(), count().await), (Some(0), "", 0));
    let eve = user("eve@example.com").await;
    let (code, stdout, stderr) = run(&["admin", "users", "delete", &eve], &env).await;
    assert_eq!((code, stdout.as_str(), count().await), (Some(0), "", 0), "a script is not asked: {stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrators_key_leaves_the_machine_encrypted_only() {
    let control = Control::start(Kind::Sqlite).await;
    let port = control.url.rsplit(':').next().unwrap();
    let elsewhere = format!("http://0.0.0.0:{port}");
    let mut env = env(&[("ADMIN__URL", &elsewhere), ("ADMIN__KEY", ADMIN_KEY)]);
    let (code, _, stderr) = run(&["admin", "plans", "list"], &env).await;
    assert_eq!(code, Some(2));
    assert_eq!(
        stderr,
        "error: admin.url: http:// would send the administrator's key in clear text; use https:// or set \
         admin.allow_insecure (HTTVPS_ADMIN__URL)\n"
    );
    env.extend(self::env(&[("ADMIN__ALLOW_INSECURE", "true")]));
    let (code, _, stderr) = run(&["admin", "plans", "list"], &env).await;
    assert_eq!(code, Some(0), "{stderr}");
    for (url, reason) in [("ftp://localhost", "must begin with https:// or http://"), ("localhost", "not a URL: ")] {
        let (code, _, stderr) = run(&["admin", "plans", "list"], &self::env(&[("ADMIN__URL", url)])).await;
        assert_eq!((code, stderr.starts_with(&format!("error: admin.url: {reason}"))), (Some(2), true), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_is_told_why_and_gets_a_support_id() {
    let deployment = Deployment::start(Kind::Sqlite, CHACHA).await;
    deployment.control.update("users", &deployment.subscriber.user, json!({ "status": "banned" })).await;
    let admin = admin_env(&deployment.control);
    for encoding in ["v1", "v2"] {
        let (code, _, stderr) = run(&["connect"], &deployment.client_env(encoding)).await;
        assert_eq!(code, Some(4), "{stderr}");
        let said = stderr.lines().find_map(|line| line.strip_prefix("error: ")).unwrap();
        let id =
            said.strip_prefix("USER_BANNED: this account is banned (support id ").and_then(|id| id.strip_suffix(')'));
        let field = format!("support_id={}", id.unwrap_or_else(|| panic!("no id: {said}")));
        let (_, found, _) = run(&["admin", "refusals", "list", &field, "--json"], &admin).await;
        let found: Value = serde_json::from_str(&found).unwrap();
        assert_eq!(found["items"][0]["code"], "USER_BANNED", "{found}");
    }
}

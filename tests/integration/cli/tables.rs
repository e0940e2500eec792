//! Answers as tables, lines and comma-separated values, and short IDs.

use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr;

use crate::support::control::{Control, admin_env, id};
use crate::support::database::Kind;
use crate::support::environment::Env;
use crate::support::process::run;
use crate::support::terminal::on_a_terminal;

const WIDTH: usize = 80;
/// What clears a line of progress.
const CLEAR: &str = "\r\u{1b}[K";

/// A control plane with a user of a plan, and a device whose name is hard to show.
struct Shop {
    control: Control,
    env: Env,
    user: String,
    plan: String,
    subscription: String,
    device: String,
}

impl Shop {
    async fn open() -> Self {
        let control = Control::start(Kind::Sqlite).await;
        let plan = id(&control.create("plans", json!({ "name": "Standard", "traffic_limit_gb": 100 })).await);
        let identifier = format!("ann.{}@example.com", "very.long.".repeat(20));
        let user = id(&control.create("users", json!({ "identifier": identifier })).await);
        let name = format!("{}\u{202e}é", "東京".repeat(35));
        let device = json!({ "user_id": user, "platform": "android", "name": name });
        let device = id(&control.create("devices", device).await);
        let subscription = json!({ "user_id": user, "plan_id": plan, "days": 30 });
        let subscription = id(&control.create("subscriptions", subscription).await);
        let env = admin_env(&control);
        Self { control, env, user, plan, subscription, device }
    }

    async fn piped(&self, line: &str) -> String {
        let args: Vec<&str> = ["admin"].into_iter().chain(line.split(' ')).collect();
        let (code, stdout, stderr) = run(&args, &self.env).await;
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{line}: {stdout}");
        stdout
    }

    /// What a terminal shows in the end, without the lines of progress.
    async fn shown(&self, line: &str) -> Vec<String> {
        let (code, shown) = on_a_terminal(&format!("admin {line}"), "", &self.env).await;
        assert_eq!(code, Some(0), "{line}: {shown}");
        let last = |line: &str| line.rsplit(CLEAR).next().unwrap_or_default().to_owned();
        shown.split("\r\n").filter(|line| !line.is_empty()).map(last).collect()
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split("  ").map(str::trim).filter(|word| !word.is_empty()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_fit_a_terminal_and_name_what_ids_mean() {
    let shop = Shop::open().await;
    let tail = |id: &str| id[id.len() - 8..].to_owned();
    for resource in ["users", "devices", "codes", "plans", "subscriptions", "regions", "nodes", "gateways", "endpoints"]
    {
        let lines = shop.shown(&format!("{resource} list")).await;
        assert!(lines[0].starts_with("ID "), "{lines:?}");
        for line in lines {
            assert!(line.width() <= WIDTH && !line.contains(char::is_control), "{resource}: {line:?}");
        }
    }
    let lines = shop.shown("subscriptions list").await;
    assert_eq!(words(&lines[0]), ["ID", "USER", "PLAN", "STATE", "VALID UNTIL"]);
    let row = words(&lines[1]);
    assert_eq!((row[0], row[2], row[3]), (tail(&shop.subscription).as_str(), "Standard", "active"));
    assert!(row[1].starts_with("ann.very.long.") && row[1].ends_with('…'), "{row:?}");
    let devices = shop.shown("devices list").await;
    assert!(devices[1].contains("東京…") && devices[1].ends_with("active     -"), "{devices:?}");
    let wide = shop.shown("subscriptions list --wide").await;
    assert!(wide[0].contains("  USER_ID  ") && wide[1].contains(&shop.user), "{wide:?}");
    assert!(wide[1].starts_with(&format!("{}  ann.very", shop.subscription)), "{wide:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_shown_to_people_in_their_words_and_to_scripts_as_it_is() {
    let shop = Shop::open().await;
    let lines = shop.shown(&format!("subscriptions get {}", shop.subscription)).await;
    let line = |name: &str| {
        let mut found = lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.next().unwrap_or_else(|| panic!("no {name}: {lines:?}")).trim().to_owned()
    };
    assert_eq!(line("id"), shop.subscription);
    assert_eq!(line("plan_id"), format!("{} (Standard)", shop.plan));
    assert!(line("user_id").starts_with(&format!("{} (ann.very", shop.user)));
    assert!(line("valid_until").ends_with("(in 29 d)"), "{lines:?}");
    let plan = shop.shown(&format!("plans get {}", shop.plan)).await;
    assert!(plan.iter().any(|line| line == "traffic_limit_gb:  100 GB"), "{plan:?}");
    let piped = shop.piped(&format!("plans get {}", shop.plan)).await;
    assert!(piped.contains("\ntraffic_limit_gb 100.0\n"), "{piped}");
    let csv = shop.piped(&format!("plans get {} --csv", shop.plan)).await;
    assert!(csv.starts_with("id,created_at,currency,") && csv.lines().count() == 2, "{csv}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_get_whole_values() {
    let shop = Shop::open().await;
    let text = shop.piped("devices list").await;
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(words(lines[0]), ["ID", "USER", "NAME", "PLATFORM", "STATUS", "SEEN"]);
    assert!(lines[1].starts_with(&shop.device) && !text.contains('…'), "{text}");
    let csv = shop.piped("devices list --csv").await;
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let at = |name: &str| headers.iter().position(|header| header == name).unwrap();
    let (id, name, user) = (at("id"), at("name"), at("user_id"));
    let record = reader.records().next().unwrap().unwrap();
    assert_eq!((&record[id], &record[user]), (shop.device.as_str(), shop.user.as_str()));
    let api = shop.control.get("devices", &shop.device).await;
    assert_eq!(record[name], *api["name"].as_str().unwrap());
    assert!(csv.ends_with("\r\n"));
    let json: Value = serde_json::from_str(&shop.piped("devices list --json").await).unwrap();
    assert_eq!(json["items"], json!([api]));
    shop.control.create("plans", json!({ "name": "Other" })).await;
    let args = ["admin", "plans", "list", "limit=1", "--csv"];
    let (_, stdout, stderr) = run(&args, &shop.env).await;
    let page: Value = serde_json::from_str(&shop.piped("plans list limit=1 --json").await).unwrap();
    let more = format!("more: cursor={}\n", page["next"].as_str().unwrap());
    assert_eq!((stdout.lines().count(), stderr), (2, more));
    assert_eq!(shop.piped("plans list limit=1 --csv --all").await.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_digits_that_a_list_shows_name_a_row() {
    let shop = Shop::open().await;
    let list = shop.shown("users list").await;
    let short = words(&list[1])[0];
    assert_eq!(short.len(), 8);
    let user = shop.piped(&format!("users get {short} --json")).await;
    assert_eq!(id(&serde_json::from_str(&user).unwrap()), shop.user);
    let devices = shop.piped(&format!("devices list user_id={short}")).await;
    assert!(devices.contains(&shop.device), "{devices}");
    let (code, _, stderr) = run(&["admin", "users", "get", "00000000"], &shop.env).await;
    assert_eq!((code, stderr.as_str()), (Some(1), "error: none of the users has an ID that ends in 00000000\n"));
    let (code, _, stderr) = run(&["admin", "users", "get", "4dd31"], &shop.env).await;
    assert_eq!((code, stderr.contains("not an ID as printed by list and create")), (Some(2), true), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_that_several_rows_share_are_refused_with_the_rows() {
    let control = Control::start(Kind::Postgres).await;
    let ids = ["01a1fd55-7a80-7877-aa53-3ffc5ff4dd31", "01a1fd55-7a80-7877-aa54-4ffc5ff4dd31"];
    for (id, name) in ids.into_iter().zip(["One", "Two"]) {
        control.create("plans", json!({ "name": name })).await;
        control.rewrite(&format!("UPDATE plans SET id = '{id}' WHERE name = '{name}'")).await;
    }
    let env = admin_env(&control);
    let (code, _, stderr) = run(&["admin", "plans", "delete", "5ff4dd31"], &env).await;
    let expected =
        format!("error: several of the plans have IDs that end in 5ff4dd31: {} (One), {} (Two)\n", ids[0], ids[1]);
    assert_eq!((code, stderr), (Some(2), expected));
    let (_, shown) = on_a_terminal("admin plans list", "", &env).await;
    assert!(shown.contains("\n3ffc5ff4dd31  One ") && shown.contains("\n4ffc5ff4dd31  Two "), "{shown}");
    let (code, _, stderr) = run(&["admin", "plans", "delete", "4ffc5ff4dd31"], &env).await;
    assert_eq!((code, control.list("plans").await.len()), (Some(0), 1), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_work_shows_how_far_it_is() {
    let shop = Shop::open().await;
    shop.control.create("plans", json!({ "name": "Other" })).await;
    let (code, shown) = on_a_terminal("admin plans list limit=1 --all", "", &shop.env).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(&format!("{CLEAR}1 plans…{CLEAR}ID ")), "{shown:?}");
    let keys = shop.control.folder.path().join("keys.txt");
    std::fs::write(&keys, "ss://aes-256-gcm:hush@10.0.0.1:8388\n").unwrap();
    shop.control.create("regions", json!({ "code": "eu-1" })).await;
    let import = format!("admin nodes import region=eu-1 file={}", keys.display());
    let (code, shown) = on_a_terminal(&import, "", &shop.env).await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains(&format!("{CLEAR}0 of 1 keys…{CLEAR}line 1: created ")), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn help_lists_fields_and_examples() {
    for (line, texts) in [
        ("users", ["identifier        text, required", "httvps admin users update ID status=banned"]),
        ("users create", ["identifier        text, required", "users create identifier=ann@example.com"]),
        ("subscriptions renew", ["payment_id        text, required", "renew ID days=30 payment_id=2026-11-0001"]),
        ("sessions list", ["device_id         ID", "httvps admin sessions list"]),
        ("devices why", ["Explain why it has no traffic", "devices why ID"]),
    ] {
        let args: Vec<&str> = ["admin"].into_iter().chain(line.split(' ')).chain(["--help"]).collect();
        let (code, stdout, stderr) = run(&args, &Env::new()).await;
        assert_eq!(code, Some(0), "{stderr}");
        assert!(texts.iter().all(|text| stdout.contains(text)), "{line}: {stdout}");
    }
}

//! The `admin` command.

use serde_json::{Value, json};

use crate::support::control::{Control, admin_env, id};
use crate::support::database::Kind;
use crate::support::process::run;

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_command() {
    let control = Control::start(Kind::Sqlite).await;
    let env = admin_env(&control);
    let admin = async |line: &str| {
        let args: Vec<&str> = ["admin"].into_iter().chain(line.split(' ')).collect();
        run(&args, &env).await
    };
    let (code, stdout, stderr) = admin("regions create code=eu-1 name=Europe").await;
    assert_eq!(code, Some(0), "{stderr}");
    let region = stdout.lines().find_map(|line| line.strip_prefix("id ")).unwrap().to_owned();
    let (code, stdout, _) = admin("plans create name=basic max_devices=3 traffic_limit_gb=0.5 --json").await;
    assert_eq!(code, Some(0));
    let plan: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&plan["max_devices"], &plan["traffic_limit_gb"]), (&json!(3), &json!(0.5)));
    let (_, stdout, _) = admin(&format!("plans update {} traffic_limit_gb=", id(&plan))).await;
    assert!(stdout.contains("traffic_limit_gb -\n"), "{stdout}");
    let (_, stdout, _) = admin("regions list").await;
    assert!(stdout.starts_with("ID ") && stdout.contains(&format!("\n{region}  eu-1  Europe  ")), "{stdout}");
    let (code, _, stderr) = admin("plans create nam=x").await;
    assert_eq!(code, Some(1));
    assert!(stderr.starts_with("error: INVALID: nam UNKNOWN: unknown field `nam`"), "{stderr}");
    assert_eq!(admin(&format!("regions delete {region}")).await.0, Some(0));
    assert_eq!(admin(&format!("regions get {region}")).await.0, Some(1));
    let health = control.process.as_ref().unwrap().line("ops-control");
    assert_eq!(run(&["healthcheck", "--url", &format!("{health}/readyz")], &env).await.0, Some(0));
    assert_eq!(run(&["healthcheck", "--url", &format!("{health}/nothing")], &env).await.0, Some(1));
}

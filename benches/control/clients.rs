use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use httvps::clock::Clock;
use httvps::frame::{SessionCode, Token};
use httvps::token::Issuer;
use rustls::client::Resumption;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::fleet::Fleet;
use crate::load::Row;
use crate::measure::in_lanes;
use crate::pace::in_time;
use crate::session::{Door, Session, connector};
use crate::site::Site;
use crate::support::control::SEED;

const LANES: usize = 32;
const TOKEN_SECONDS: i64 = 3_600;

pub(crate) struct End {
    pub(crate) number: u64,
    pub(crate) why: Result<SessionCode, String>,
    pub(crate) at: Instant,
}

pub(crate) struct Clients {
    sessions: HashMap<u64, String>,
    ends: UnboundedReceiver<End>,
}

impl Clients {
    pub(crate) async fn open(site: &Site, fleet: &Fleet, count: u64) -> Self {
        let began = Instant::now();
        let tls = connector(&fleet.ca(), Resumption::disabled());
        let issuer = Issuer::new(&SEED).unwrap();
        let now = Clock::system().now().unix_timestamp();
        let next = AtomicU64::new(1);
        let (sender, ends) = unbounded_channel();
        let sessions = in_lanes(usize::try_from(count).unwrap(), LANES, || async {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (device, user) = (Row::Device.id(number), Row::User.id(number));
            let token = Token::from(issuer.issue(device, user, now, TOKEN_SECONDS).unwrap());
            let gateway = &fleet.gateways[site.gateway_of(number)];
            let door = Door::new(gateway, tls.clone(), device.to_string(), token);
            let session = in_time("a tunnel is open", door.enter(&[])).await;
            let session = session.unwrap_or_else(|error| panic!("client {number} is not let in: {error}"));
            let id = session.id.clone();
            tokio::spawn(hold(number, session, sender.clone()));
            (number, id)
        })
        .await;
        eprintln!("{count} tunnels: {:.1} s", began.elapsed().as_secs_f64());
        Self { sessions: sessions.into_iter().collect(), ends }
    }

    pub(crate) fn session(&self, number: u64) -> &str {
        &self.sessions[&number]
    }

    pub(crate) async fn next_end(&mut self) -> End {
        in_time("a session ends", self.ends.recv()).await.expect("clients are held")
    }
}

async fn hold(number: u64, session: Session, ends: UnboundedSender<End>) {
    let why = session.over().await.map_err(|error| error.to_string());
    ends.send(End { number, why, at: Instant::now() }).ok();
}

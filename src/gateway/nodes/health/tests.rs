use super::*;

const FIRST_BYTE: u64 = 1000;
const INTERVAL: u64 = 30_000;
const PROBE: u64 = 2000;

/// A node's health at a clock that is set by hand, in milliseconds.
struct Scene {
    begun: Instant,
    now: u64,
    health: Health<&'static str>,
}

impl Scene {
    /// A node that has answered its first probe, of which the control plane has heard.
    fn new() -> Self {
        let begun = Instant::now();
        let limits = Limits {
            first_byte: Duration::from_millis(FIRST_BYTE),
            interval: Duration::from_millis(INTERVAL),
            retry_min: Duration::from_millis(250),
            retry_max: Duration::from_secs(1),
        };
        let mut scene = Self { begun, now: 0, health: Health::new(limits, begun) };
        scene.probe(Outcome::Answered, 0);
        scene.report(Some(true));
        scene
    }

    fn at(&self) -> Instant {
        self.begun + Duration::from_millis(self.now)
    }

    /// Milliseconds until there is something to do.
    fn due(&mut self) -> u64 {
        let due = self.health.poll_timeout().unwrap();
        u64::try_from(due.saturating_duration_since(self.at()).as_millis()).unwrap()
    }

    fn pass(&mut self, millis: u64) {
        self.now += millis;
        let at = self.at();
        self.health.handle_timeout(at);
    }

    /// Waits until a probe is due, which takes a time; gives how long that was.
    fn probe(&mut self, outcome: Outcome, takes: u64) -> u64 {
        let begun = self.now;
        loop {
            let at = self.at();
            self.health.handle_timeout(at);
            if self.health.begin_probe(at) {
                break;
            }
            let due = self.due();
            self.pass(due);
        }
        let waited = self.now - begun;
        self.pass(takes);
        let at = self.at();
        self.health.probed(outcome, at);
        waited
    }

    fn report(&mut self, agreed: Option<bool>) {
        let at = self.at();
        self.health.reported(agreed, at);
    }

    fn open(&mut self, name: &'static str) -> Option<StreamId> {
        let at = self.at();
        self.health.opened(name, at)
    }

    fn hear(&mut self, id: StreamId) {
        let at = self.at();
        self.health.heard(id, at);
    }
}

#[test]
fn a_well_node_is_probed_at_its_interval() {
    let mut scene = Scene::new();
    assert_eq!(scene.probe(Outcome::Answered, 10), INTERVAL);
    scene.report(Some(true));
    assert_eq!(scene.probe(Outcome::Answered, 10), INTERVAL);
    assert!(!scene.health.take_change());
}

#[test]
fn a_node_that_hangs_is_down_within_a_first_byte_and_a_probe() {
    let mut scene = Scene::new();
    scene.pass(5000);
    scene.open("first").unwrap();
    scene.pass(300);
    scene.open("second").unwrap();
    assert_eq!(scene.probe(Outcome::Silent, PROBE), FIRST_BYTE - 300);
    assert!(!scene.health.is_up() && scene.health.take_change());
    assert_eq!(scene.now, 5000 + FIRST_BYTE + PROBE, "well under 5 s");
    let mut ended = scene.health.take_ended();
    ended.sort_unstable();
    assert_eq!(ended, ["first", "second"], "both may be opened elsewhere");
}

#[test]
fn a_destination_that_speaks_late_costs_one_probe_and_no_stream() {
    let mut scene = Scene::new();
    let late = scene.open("late").unwrap();
    assert_eq!(scene.probe(Outcome::Answered, 20), FIRST_BYTE);
    scene.report(Some(true));
    scene.pass(10_000);
    assert!(scene.health.is_up() && scene.health.take_ended().is_empty());
    assert_eq!(scene.due(), INTERVAL - 10_000, "it is not asked for again");
    scene.hear(late);
    let at = scene.at();
    let preconnected = scene.open("preconnected").unwrap();
    scene.pass(FIRST_BYTE * 5);
    assert!(scene.health.begin_probe(scene.at()));
    scene.health.probed(Outcome::Answered, scene.at());
    scene.health.sent(preconnected, scene.at());
    assert_eq!(scene.due(), FIRST_BYTE, "its request has a time of its own");
    assert!(scene.at() > at);
}

#[test]
fn a_byte_of_another_stream_clears_the_node() {
    let mut scene = Scene::new();
    scene.open("silent").unwrap();
    let other = scene.open("other").unwrap();
    scene.pass(500);
    scene.hear(other);
    assert_eq!(scene.probe(Outcome::Silent, PROBE), INTERVAL - 500, "there was no reason to ask earlier");
    assert!(scene.health.is_up(), "one lost probe decides nothing");
    assert_eq!(scene.probe(Outcome::Silent, PROBE), 250);
    assert!(!scene.health.is_up());
    assert_eq!(scene.health.take_ended(), ["silent"]);
}

#[test]
fn what_cannot_be_connected_to_is_down_at_once_and_is_asked_at_once() {
    let mut scene = Scene::new();
    scene.open("waiting").unwrap();
    scene.health.unreachable(scene.at());
    assert!(!scene.health.is_up() && scene.health.take_change());
    assert_eq!(scene.health.take_ended(), ["waiting"]);
    assert_eq!(scene.probe(Outcome::Unreachable, 0), 0, "the control plane hears of it at once");
    assert!(!scene.health.take_change());
}

#[test]
fn a_node_that_is_back_is_noticed_within_a_pause_and_a_probe() {
    let mut scene = Scene::new();
    scene.health.unreachable(scene.at());
    let pauses: Vec<u64> = (0..6).map(|_| scene.probe(Outcome::Unreachable, PROBE)).collect();
    assert_eq!(pauses, [0, 250, 500, 1000, 1000, 1000]);
    assert_eq!(scene.probe(Outcome::Answered, 20), 1000);
    assert!(scene.health.is_up());
    scene.report(Some(false));
    assert_eq!(scene.probe(Outcome::Answered, 20), 250, "until the control plane has seen enough");
    scene.report(Some(true));
    assert_eq!(scene.probe(Outcome::Answered, 20), INTERVAL);
}

#[test]
fn a_report_that_is_lost_is_made_again_ever_more_seldom() {
    let mut scene = Scene::new();
    scene.health.unreachable(scene.at());
    scene.probe(Outcome::Answered, 0);
    let mut pauses = Vec::new();
    for _ in 0..9 {
        scene.report(None);
        pauses.push(scene.probe(Outcome::Answered, 0));
    }
    assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16_000, INTERVAL, INTERVAL]);
}

#[test]
fn a_node_that_is_down_takes_one_stream_at_a_time() {
    let mut scene = Scene::new();
    scene.health.unreachable(scene.at());
    scene.probe(Outcome::Silent, PROBE);
    let trial = scene.open("trial").unwrap();
    assert_eq!(scene.open("refused"), None);
    scene.pass(FIRST_BYTE);
    assert_eq!(scene.health.take_ended(), ["trial"], "it does not wait for a node that is known to be down");
    scene.health.closed(trial);
    let trial = scene.open("next").unwrap();
    scene.health.take_change();
    scene.hear(trial);
    assert!(scene.health.is_up() && scene.health.take_change());
    assert_eq!(scene.probe(Outcome::Answered, 10), 0, "the control plane hears of it at once");
    assert!(scene.open("more").is_some() && scene.open("and more").is_some());
}

#[test]
fn streams_that_were_answered_or_are_over_are_not_ended() {
    let mut scene = Scene::new();
    let [heard, closed] = ["heard", "closed"].map(|name| scene.open(name).unwrap());
    scene.hear(heard);
    scene.health.closed(closed);
    scene.health.unreachable(scene.at());
    assert!(scene.health.take_ended().is_empty());
}

use super::*;

const LIFETIME: Duration = Duration::from_mins(5);
const NOW: u64 = 1_800_000_000;
const STATE: &[u8] = &[7; 100];

fn shared(secret: &[u8]) -> Tickets {
    Tickets::shared(secret, LIFETIME, Clock::system())
}

#[test]
fn whoever_has_the_secret_opens_a_ticket_and_nobody_else() {
    let ticket = shared(b"one secret").seal(STATE, NOW).unwrap();
    assert_eq!(shared(b"one secret").open(&ticket, NOW).as_deref(), Some(STATE));
    assert_eq!(shared(b"another").open(&ticket, NOW), None);
    let (own, other) = (Tickets::own(LIFETIME, Clock::system()), Tickets::own(LIFETIME, Clock::system()));
    let ticket = own.seal(STATE, NOW).unwrap();
    assert_eq!(own.open(&ticket, NOW).as_deref(), Some(STATE));
    assert_eq!(other.open(&ticket, NOW), None);
}

#[test]
fn a_ticket_is_good_for_its_lifetime_over_a_change_of_keys() {
    for tickets in [shared(b"one secret"), Tickets::own(LIFETIME, Clock::system())] {
        for begin in [NOW, NOW + 299] {
            let ticket = tickets.seal(STATE, begin).unwrap();
            for (after, good) in [(0, true), (150, true), (300, true), (301, false), (700, false)] {
                assert_eq!(tickets.open(&ticket, begin + after).is_some(), good, "{tickets:?}: {begin} + {after}");
            }
        }
    }
}

#[test]
fn clocks_may_differ_by_a_period() {
    let (ahead, behind) = (shared(b"one secret"), shared(b"one secret"));
    let ticket = ahead.seal(STATE, NOW + 290).unwrap();
    assert!(behind.open(&ticket, NOW).is_some());
    assert!(behind.open(&ahead.seal(STATE, NOW + 301).unwrap(), NOW).is_some());
    assert!(behind.open(&ahead.seal(STATE, NOW + 601).unwrap(), NOW).is_none());
}

#[test]
fn keys_change_and_old_ones_are_forgotten() {
    let tickets = Tickets::own(LIFETIME, Clock::system());
    let name = |now| tickets.seal(STATE, now).unwrap()[..NAME_LEN].to_vec();
    assert_eq!(name(NOW), name(NOW + 299));
    assert_ne!(name(NOW), name(NOW + 300));
    for later in 2..6 {
        name(NOW + later * 300);
        assert!(tickets.keys.read().unwrap().len() <= 2);
    }
}

#[test]
fn whatever_is_not_a_ticket_is_none() {
    let tickets = shared(b"one secret");
    let ticket = tickets.seal(STATE, NOW).unwrap();
    for len in 0..ticket.len() {
        assert_eq!(tickets.open(&ticket[..len], NOW), None);
    }
    for at in 0..ticket.len() {
        let mut forged = ticket.clone();
        forged[at] ^= 1;
        assert_eq!(tickets.open(&forged, NOW), None, "byte {at}");
    }
}

#[test]
fn tickets_have_the_size_of_other_servers_tickets() {
    let tickets = shared(b"one secret");
    for (state, size) in [(0, 208), (100, 208), (200, 256), (201, 256)] {
        assert_eq!(tickets.seal(&vec![0; state], NOW).unwrap().len(), size, "{state}");
    }
    assert!(tickets.seal(&vec![0; 70_000], NOW).is_none());
}

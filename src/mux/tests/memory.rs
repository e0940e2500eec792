use super::*;

/// Bytes that were sent on a stream and that its destination does not take.
fn waiting(pair: &mut Pair, len: usize) -> (StreamKey, StreamKey) {
    let (ours, theirs) = pair.stream();
    assert_eq!(send_all(&mut pair.client, ours, &vec![1; len]), len);
    pair.exchange();
    (ours, theirs)
}

fn stalled(pair: &Pair) -> Vec<(StreamKey, u64)> {
    pair.gateway.stalled(Duration::from_secs(5), pair.now).collect()
}

#[test]
fn a_stream_is_stalled_while_what_waited_first_is_not_taken() {
    for encoding in [Encoding::V1, Encoding::V2] {
        let mut pair = Pair::open(encoding);
        let (_, theirs) = waiting(&mut pair, 30_000);
        let (_, idle) = pair.stream();
        pair.now += Duration::from_secs(4);
        assert_eq!(stalled(&pair), []);
        let Received::Data(bytes) = pair.gateway.receive(theirs) else { panic!("nothing came") };
        pair.gateway.consumed(theirs, 1, pair.now);
        pair.now += Duration::from_secs(1);
        assert_eq!(stalled(&pair), [(theirs, 29_999)], "a byte now and then is not enough");
        pair.gateway.consumed(theirs, bytes.len() - 1, pair.now);
        receive_all(&mut pair.gateway, theirs, pair.now);
        pair.now += Duration::from_secs(100);
        assert_eq!(stalled(&pair), [], "nothing waits, on {idle:?} neither");
    }
}

#[test]
fn an_accounts_sessions_share_a_budget_and_leave_others_theirs() {
    let limits = limits();
    let whole = Arc::clone(&limits.memory);
    let account = Arc::new(MemoryBudget::child(&whole, 100_000));
    let mut pairs = [Pair::open_with(Encoding::V2, limits.clone()), Pair::open_with(Encoding::V2, limits.clone())];
    let mut other = Pair::open_with(Encoding::V2, limits);
    for pair in &mut pairs {
        pair.gateway.charge(Arc::clone(&account));
    }
    let [first, second] = &mut pairs;
    let (ours, theirs) = waiting(first, 60_000);
    waiting(second, 60_000);
    assert_eq!((account.held(), whole.held()), (120_000, 120_000));
    let refused = first.client.open(&target(), Bytes::new(), first.now).unwrap();
    first.exchange();
    assert_eq!(first.client.receive(refused), Received::Reset(StreamCode::Limit), "the account holds too much");
    waiting(&mut other, 60_000);
    first.gateway.reset(theirs, StreamCode::Limit);
    first.exchange();
    assert_eq!(first.client.receive(ours), Received::Reset(StreamCode::Limit));
    assert_eq!((account.held(), whole.held()), (60_000, 120_000), "its bytes are free at once");
    waiting(first, 1_000);
    drop(pairs);
    assert_eq!((account.held(), whole.held()), (0, 60_000));
    assert_eq!(account.take(1 << 20), 50_000, "growth is shared, too");
}

#[test]
fn what_waited_before_consent_is_charged_with_it() {
    let limits = limits();
    let whole = Arc::clone(&limits.memory);
    let account = Arc::new(MemoryBudget::child(&whole, 100_000));
    let mut pair = Pair::greeting(Encoding::V2, limits);
    pair.client.hello(hello());
    let ours = pair.client.open(&target(), Bytes::new(), pair.now).unwrap();
    send_all(&mut pair.client, ours, &[1; 10_000]);
    pair.exchange();
    assert_eq!((account.held(), whole.held()), (0, 10_000));
    pair.gateway.charge(Arc::clone(&account));
    pair.gateway.accept(consent());
    assert_eq!((account.held(), whole.held()), (10_000, 10_000));
    drop(pair);
    assert_eq!((account.held(), whole.held()), (0, 0));
}

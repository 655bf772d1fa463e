//! What the thread does at its end.

use super::*;

#[test]
fn what_arrives_at_the_end_does_not_put_the_end_off() {
    let clock = Clock::system();
    let (events, inbox) = channel();
    // A disk that hangs, and a URL whose fetch continues.
    let others = std::thread::spawn(move || {
        (0..20_000).all(|_| {
            std::thread::sleep(Duration::from_millis(1));
            events.send(ReloadEvent::Wake).is_ok()
        })
    });
    let end = clock.now().mono_ns + nanos(Duration::from_millis(50));
    assert!(forced_until(&inbox, &clock, end).is_none());
    drop(inbox);
    assert!(!others.join().unwrap(), "they went on to their own end");

    let (events, inbox) = channel();
    events.send(ReloadEvent::Wake).unwrap();
    events.send(ReloadEvent::Forced(Ok(()))).unwrap();
    let end = clock.now().mono_ns + nanos(PATIENCE);
    assert!(forced_until(&inbox, &clock, end).is_some_and(|result| result.is_ok()));
}

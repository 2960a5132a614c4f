//! What a visitor does, and what comes of it.

use std::sync::Arc;

use oncekey::Deduplicator;
use oncekey_sqlite::SqliteStore;

use crate::app;
use crate::bank::Bank;
use crate::driver::{PATIENCE, until};
use crate::till::{Page, Sent, Till, engine};

/// How long the page waits for an answer, in milliseconds.
const LIMIT_MS: u32 = 15_000;
/// The same, for one that is to be lost.
const LIMIT_LOST_MS: u32 = 3_000;
/// The same, for one that is to be lost after a slow bank.
const LIMIT_LOST_SLOWLY_MS: u32 = 6_000;

/// Statuses and marks, the oldest first.
fn answers(page: &Page) -> Vec<(&str, bool)> {
    page.sent.iter().rev().map(|sent| (sent.status.as_str(), sent.replayed)).collect()
}

#[test]
fn a_double_click_is_charged_once_and_answered_twice() {
    let till = Till::open();
    till.browser.double_click("#pay");
    let page = till.settled(2);
    assert_eq!(till.limits_ms(), [LIMIT_MS; 2]);
    assert_eq!(till.charges().len(), 1);
    assert_eq!(page.ledger, ["ch_0001"]);
    assert_eq!(page.verdict, "This order was charged once: $50.00.");
    assert_eq!(page.total, "$50.00");
    // Which of the two comes first is the network's affair.
    let mut answers = answers(&page);
    answers.sort_unstable();
    assert_eq!(answers, [("201", false), ("201", true)]);
    assert_eq!(page.sent[0].body, "ch_0001, $50.00");
    assert_eq!(page.sent[1].body, page.sent[0].body);
    assert_eq!(page.sent[0].key, page.sent[1].key);
    assert!(page.key.starts_with(&page.sent[0].key));
    // The operation that the bank was told of is the layer's.
    assert!(till.charges()[0].operation.is_some());
}

#[test]
fn a_slow_bank_and_a_double_click_charge_once_while_the_second_waits() {
    let dedup = engine();
    let till = Till::open_over(&dedup);
    let closed = till.bank.closed();
    till.browser.click("#slow-bank");
    till.browser.double_click("#pay");
    // Both are with the server, and one of them waits for the other.
    until("the second waits", || (dedup.waiting() == 1).then_some(()));
    assert_eq!(till.charges(), []);
    drop(closed);
    let page = till.settled(2);
    assert_eq!(till.limits_ms(), [LIMIT_MS; 2]);
    let mut answers = answers(&page);
    answers.sort_unstable();
    assert_eq!(answers, [("201", false), ("201", true)]);
    assert_eq!(page.ledger, ["ch_0001"]);
}

#[test]
fn a_duplicate_that_does_not_wait_is_told_when_to_ask_again_and_then_gets_the_answer() {
    let till = Till::open();
    let closed = till.bank.closed();
    till.browser.click("#refuse-duplicates");
    till.browser.double_click("#pay");
    let shows = |is: fn(&Sent) -> bool| Some(till.look()).filter(|page| page.sent.iter().any(is));
    until("one is refused", || shows(|sent| sent.status == "409"));
    drop(closed);
    let page = until("one is replayed", || shows(|sent| sent.replayed));
    let limits = till.limits_ms();
    assert!(limits.len() == page.sent.len() && limits.iter().all(|limit| *limit == LIMIT_MS), "{limits:?}");
    let mut answers = answers(&page);
    // It may have asked more than once until the bank was open again.
    answers.sort_unstable();
    answers.dedup();
    assert_eq!(answers, [("201", false), ("201", true), ("409", false)]);
    let (newest, refused) = (&page.sent[0], page.sent.iter().find(|sent| sent.status == "409").unwrap());
    assert!(newest.replayed);
    assert!(newest.note.ends_with(" again"), "{newest:?}");
    assert!(refused.body.starts_with("A request is outstanding for this Idempotency-Key."), "{refused:?}");
    assert_eq!(page.ledger, ["ch_0001"]);
}

#[test]
fn a_lost_reply_is_asked_for_again_and_charged_once() {
    let till = Till::open();
    till.browser.click("#lose-reply");
    till.browser.click("#pay");
    until("the bank charges", || (till.charges().len() == 1).then_some(()));
    till.give_up();
    let page = till.settled(2);
    assert_eq!(till.limits_ms(), [LIMIT_LOST_MS, LIMIT_MS]);
    assert_eq!(answers(&page), [("no answer within 3 s", false), ("201", true)]);
    assert_eq!(page.ledger, ["ch_0001"]);
    assert_eq!(page.verdict, "This order was charged once: $50.00.");
    assert_eq!(page.sent[0].key, page.sent[1].key);
}

#[test]
fn a_reply_lost_after_a_slow_bank_is_waited_for_longer_and_charged_once() {
    let till = Till::open();
    till.browser.click("#lose-reply");
    till.browser.click("#slow-bank");
    till.browser.click("#pay");
    until("the bank charges", || (till.charges().len() == 1).then_some(()));
    till.give_up();
    let page = till.settled(2);
    assert_eq!(till.limits_ms(), [LIMIT_LOST_SLOWLY_MS, LIMIT_MS]);
    assert_eq!(answers(&page), [("no answer within 6 s", false), ("201", true)]);
    assert_eq!(page.ledger, ["ch_0001"]);
}

#[test]
fn without_oncekey_a_double_click_and_a_lost_reply_charge_twice_each() {
    let till = Till::open();
    till.browser.click("#without-oncekey");
    till.browser.double_click("#pay");
    let page = till.settled(2);
    assert_eq!(answers(&page), [("201", false), ("201", false)]);
    assert_eq!(page.ledger, ["ch_0002", "ch_0001"]);
    assert_eq!(page.verdict, "This order was charged 2 times: $100.00.");
    assert!(till.charges().iter().all(|charge| charge.operation.is_none()));

    till.browser.click("#new-order");
    till.browser.click("#lose-reply");
    till.browser.click("#pay");
    until("the bank charges", || (till.charges().len() == 3).then_some(()));
    till.give_up();
    let page = till.settled(4);
    assert_eq!(till.limits_ms(), [LIMIT_MS, LIMIT_MS, LIMIT_LOST_MS, LIMIT_MS]);
    assert_eq!(page.ledger.len(), 4);
    assert_eq!(page.verdict, "This order was charged 2 times: $100.00.");
    assert_eq!(page.total, "$200.00");
}

#[test]
fn the_same_key_with_another_amount_is_refused() {
    let till = Till::open();
    till.browser.click("#pay");
    till.settled(1);
    till.browser.click("#tamper");
    let page = till.settled(2);
    assert_eq!(answers(&page), [("201", false), ("422", false)]);
    assert!(page.sent[0].body.starts_with("Idempotency-Key is already used."), "{page:?}");
    assert_eq!(page.total, "$50.00");
}

#[test]
fn the_key_is_the_orders_it_outlives_a_reload_and_a_new_order_has_another() {
    let till = Till::open();
    till.browser.click("#pay");
    let first = till.settled(1);
    till.load();
    till.browser.click("#pay");
    let reloaded = till.settled(1);
    assert_eq!(reloaded.key, first.key);
    assert_eq!(answers(&reloaded), [("201", true)]);
    till.browser.click("#new-order");
    till.browser.click("#pay");
    let renewed = till.settled(2);
    assert_ne!(renewed.key, first.key);
    assert_eq!(answers(&renewed), [("201", true), ("201", false)]);
    assert_eq!(renewed.ledger, ["ch_0002", "ch_0001"]);
}

#[test]
fn another_visitor_with_the_same_key_does_not_get_the_answer() {
    let till = Till::open();
    till.browser.click("#pay");
    till.settled(1);
    // The page keeps the key; the server takes the browser for somebody else.
    till.browser.forget_cookies();
    till.load();
    till.browser.click("#pay");
    let page = till.settled(1);
    assert_eq!(answers(&page), [("201", false)]);
    assert_eq!(page.sent[0].body, "ch_0002, $50.00");
}

#[test]
fn over_sqlite_a_key_is_answered_by_the_next_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let shop = || {
        let store = SqliteStore::open(folder.path().join("shop.db")).unwrap();
        let bank = Arc::new(Bank::on_file(&folder.path().join("shop.db.ledger")).unwrap());
        let dedup = Deduplicator::builder(store).lease(PATIENCE).build().unwrap();
        (app::shop(&dedup, &bank).unwrap(), bank)
    };
    let (router, bank) = shop();
    let mut till = Till::before(bank, router);
    till.browser.click("#pay");
    let before = till.settled(1);
    till.close();
    until("the page says that the shop is closed", || (!till.look().reachable).then_some(()));
    let (router, bank) = shop();
    till.reopen(bank, router);
    till.browser.click("#pay");
    let after = till.settled(2);
    assert_eq!(answers(&after), [("201", false), ("201", true)]);
    assert_eq!(after.key, before.key);
    assert_eq!(after.ledger, ["ch_0001"]);
}

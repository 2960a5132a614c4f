//! What the page looks like, and how it is to use without a mouse.

use std::path::Path;

use crate::driver::until;
use crate::till::Till;

#[test]
fn all_of_it_has_names_and_works_by_keyboard() {
    let till = Till::open();
    let is = |css: &str, role: &str, name: &str| {
        let (found, label) = till.browser.accessible(css);
        assert!(found == role && label.starts_with(name), "{css} is a {found}, {label:?}");
    };
    is("#pay", "button", "Pay $50");
    is("#new-order", "button", "New order");
    is("#tamper", "button", "Same key, $80");
    is("#lose-reply", "switch", "Lose the reply");
    is("#slow-bank", "switch", "Slow bank");
    is("#refuse-duplicates", "switch", "Do not wait");
    is("#without-oncekey", "switch", "Without oncekey");
    is("#verdict", "status", "");
    till.browser.keys("#slow-bank", " ");
    till.browser.keys("#pay", "\u{E007}\u{E007}");
    let page = till.settled(2);
    assert_eq!(page.ledger, ["ch_0001"]);
    // Which of the two comes first is the network's affair.
    assert_eq!(page.sent.iter().filter(|sent| sent.replayed).count(), 1);
}

/// In light and dark, wide and narrow: nothing sticks out, and all text is legible. With `ONCEKEY_SCREENSHOTS`, a
/// folder, the pictures are kept there.
#[test]
fn it_fits_every_width_and_reads_in_light_and_dark() {
    let till = Till::open();
    till.browser.click("#without-oncekey");
    till.browser.double_click("#pay");
    till.settled(2);
    till.browser.click("#without-oncekey");
    till.browser.click("#new-order");
    till.browser.double_click("#pay");
    till.settled(4);
    till.browser.click("#tamper");
    till.settled(5);
    till.browser.click("#lose-reply");
    till.browser.click("#pay");
    until("it is sent", || (till.look().sent.len() == 6).then_some(()));
    till.give_up();
    till.settled(7);
    for scheme in ["light", "dark"] {
        for (width, height) in [(1180, 960), (800, 1100), (390, 2000), (320, 2000)] {
            till.browser.prefer(scheme);
            till.browser.resize(width, height);
            let out = till.browser.script(STICKS_OUT);
            assert_eq!(out, serde_json::json!([]), "{scheme}, {width} pixels wide");
            let pale = till.browser.script(PALE);
            assert_eq!(pale, serde_json::json!([]), "{scheme}, {width} pixels wide");
            if let Some(folder) = std::env::var_os("ONCEKEY_SCREENSHOTS") {
                till.browser.script("scrollTo(0, 0)");
                let file = Path::new(&folder).join(format!("checkout-{scheme}-{width}.png"));
                std::fs::write(file, till.browser.screenshot()).unwrap();
            }
        }
    }
}

/// The elements that are wider than the window.
const STICKS_OUT: &str = include_str!("sticks_out.js");

/// The texts whose contrast to what is behind them is below 4.5, the AA level of WCAG 2.2 (section 1.4.3).
const PALE: &str = include_str!("pale.js");

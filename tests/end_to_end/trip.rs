//! The demo is the whole trip, and a trial: the test command takes it as a user would.

use crate::house::dumbwaiter;
use serde_json::Value;

#[test]
fn the_demo_loses_nothing_through_kills_and_outages() {
    let output = dumbwaiter(&["demo", "--duration", "12s", "--json"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
    let ledger: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"));
    for nothing in ["lost", "doubled", "outOfOrder"] {
        assert_eq!(ledger[nothing], 0, "{ledger}\n{said}");
    }
    assert_eq!((&ledger["kills"], &ledger["outages"]), (&2.into(), &2.into()), "{ledger}");
    assert_eq!(ledger["stored"], ledger["submitted"], "{ledger}\n{said}");
    for something in ["stored", "delivered", "statusesShown"] {
        assert!(ledger[something].as_u64().is_some_and(|n| n > 10), "{ledger}\n{said}");
    }
}

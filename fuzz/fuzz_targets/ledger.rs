//! The state file: whatever is read is written back the same.

#![cfg_attr(fuzzing, no_main)]

mod sealed;

use keygate::table::{Acceptance, Ledger, AcceptRules};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(ledger) = Ledger::parse(text) else { return };
    assert_eq!(Ledger::parse(&ledger.to_text()).as_ref(), Ok(&ledger));
    let (desk, _) = Acceptance::restore(AcceptRules::default(), ledger, &sealed::trust(), &sealed::bounds());
    assert!(desk.current().is_none(), "a ledger alone puts nothing in force");
});

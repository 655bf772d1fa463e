//! An admission review, or a pod alone, as JSON: the injector never panics, the same input gives the same
//! answer, and what it injects it finds injected and can take out again.

#![cfg_attr(fuzzing, no_main)]

use keygate::inject::{
    InjectContext, InjectOutcome, InjectorSettings, PatchOperation, SkipReason, Steering, inject,
    uninject,
};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(review) = serde_json::from_slice::<Value>(data) else { return };
    let pod = review.pointer("/request/object").unwrap_or(&review);
    for steering in [Steering::Move, Steering::Unique, Steering::Takeover] {
        for native_sidecar in [true, false] {
            let settings = InjectorSettings {
                steering,
                native_sidecar,
                upstream_port_env: Some("PORT".into()),
                ..InjectorSettings::default()
            };
            let outcome = inject(pod, &InjectContext::default(), &settings);
            assert_eq!(outcome, inject(pod, &InjectContext::default(), &settings));
            let InjectOutcome::Patch(injection) = outcome else { continue };
            let after = patched(pod, &injection.patch);
            let again = inject(&after, &InjectContext::default(), &settings);
            assert_eq!(again, InjectOutcome::Skip(SkipReason::AlreadyInjected));
            patched(&after, &uninject(&after).expect("what was done can be undone"));
        }
    }
});

/// As the API server does it.
fn patched(pod: &Value, patch: &[PatchOperation]) -> Value {
    let mut pod = pod.clone();
    let patch = serde_json::to_value(patch).expect("operations are JSON");
    let patch: json_patch::Patch = serde_json::from_value(patch).expect("and a patch");
    json_patch::patch(&mut pod, &patch).expect("it fits");
    pod
}

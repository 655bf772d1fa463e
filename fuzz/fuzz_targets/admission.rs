//! AdmissionReviews: bytes as they come, and pods inside of a review that is right around them.

#![cfg_attr(fuzzing, no_main)]

use keygate::inject::{InjectContext, InjectorSettings};
use keygate::webhook::review::{AdmissionResult, all_results, answer};
#[cfg(fuzzing)]
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    let context = InjectContext { is_required: kind % 4 >= 2 };
    let settings = InjectorSettings::default();
    let wrapped;
    let body = if kind % 2 == 0 {
        data
    } else {
        let Ok(pod) = serde_json::from_slice::<Value>(data) else { return };
        let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
        let request = json!({"uid": "one", "kind": kind, "operation": "CREATE", "object": pod});
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request,
        });
        wrapped = review.to_string();
        wrapped.as_bytes()
    };
    let said = answer(body, &context, &settings);
    let known = all_results().any(|known| known == (said.result, said.reason));
    assert!(known, "{:?} {}", said.result, said.reason);
    assert!(!said.told.contains('\n') && !said.pod.name.contains('\n'));
    if said.result == AdmissionResult::Malformed {
        assert_eq!(said.status, 400);
        return;
    }
    assert_eq!(said.status, 200);
    let asked: Value = serde_json::from_slice(body).expect("JSON");
    let review: Value = serde_json::from_slice(&said.body).expect("JSON");
    let response = &review["response"];
    assert_eq!(response["uid"], asked["request"]["uid"]);
    assert_eq!(response["allowed"], said.result != AdmissionResult::Denied);
    assert_eq!(response.get("patch").is_some(), said.result == AdmissionResult::Injected);
    assert_eq!(response.get("status").is_some(), said.result == AdmissionResult::Denied);
    // The same review, the same answer.
    assert_eq!(answer(body, &context, &settings).body, said.body);
});

//! keygate put in front of a workload on Kubernetes: what a pod needs for it, as a JSON patch.
//!
//! [`inject`] decides and changes nothing itself; `keygatectl inject` and the webhook call it.
//! Everything below `pod` is pure. Imports config, core, exit and manage.

pub mod command;
mod inventory;
pub mod pod;
mod stream;
mod yaml;

pub use self::pod::annotations::{AnnotationName, LabelName};
pub use self::pod::outcome::{DenialReason, InjectDenial, InjectOutcome, Injection, SkipReason};
pub use self::pod::patch::PatchOperation;
pub use self::pod::settings::{
    InjectMode, InjectorSettings, SettingsFault, SidecarPorts, SidecarResources, Steering,
    TableSettings,
};
pub use self::pod::status::{ContainerChange, InjectStatus, MovedPort};
pub use self::pod::undo::{UndoError, is_injected, uninject};
pub use self::pod::{InjectContext, inject};

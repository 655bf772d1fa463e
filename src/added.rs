//! The commands of `keygatectl` that come with features: `manage` does not know them. Imports the rooms
//! that have them.

use crate::manage::AddedCommand;

/// Those of the features that this build has, in the order of the help.
pub fn commands() -> Vec<AddedCommand> {
    vec![
        #[cfg(feature = "admin")]
        crate::registrar::command::added(),
        #[cfg(feature = "kubernetes")]
        crate::cluster::poke::added(),
        #[cfg(feature = "kubernetes")]
        crate::webhook::command::added(),
    ]
}

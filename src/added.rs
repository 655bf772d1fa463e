//! The commands of `keygatectl` that other rooms have, some of them with features: `manage` does not
//! know them. Imports the rooms that have them.

use crate::manage::AddedCommand;

/// Those that this build has, in the order of the help.
pub fn commands() -> Vec<AddedCommand> {
    vec![
        #[cfg(feature = "admin")]
        crate::registrar::command::added(),
        crate::distributor::command::added(),
        #[cfg(feature = "kubernetes")]
        crate::cluster::poke::added(),
        #[cfg(feature = "kubernetes")]
        crate::webhook::command::added(),
        #[cfg(feature = "kubernetes")]
        crate::inject::command::added_inject(),
        #[cfg(feature = "kubernetes")]
        crate::inject::command::added_uninject(),
    ]
}

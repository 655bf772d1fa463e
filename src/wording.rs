//! How both programs write for people: a number with its noun, words that a shell takes as they are,
//! what is shown of an argument or of text of others. Pure. Imports core only.

pub mod count;
pub mod echo;
pub mod shell;
pub mod visible;

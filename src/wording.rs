//! How both programs write for people: a number with its noun, words that can be pasted into a
//! shell, and what is shown of arguments or foreign text, moments. Pure. Imports core only.

pub mod count;
pub mod echo;
pub mod shell;
pub mod time;
pub mod visible;

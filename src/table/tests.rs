//! Tests of the room as a whole. Those of one step stand beside it.

mod overlay;
mod round_trip;

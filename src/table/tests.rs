//! Tests of the room as a whole. Those of one step are next to it.

mod accept;
mod build;
mod cumulative;
mod docs;
mod formats;
mod model;
mod overlay;
mod round_trip;
mod trust;
mod vectors;

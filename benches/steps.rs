//! `cargo bench --bench steps`: nanoseconds of each step of a request, by criterion.

#[path = "steps/list.rs"]
mod list;

use criterion::Criterion;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), list::Failure> {
    let mut criterion = Criterion::default().configure_from_args();
    for mut step in list::all()? {
        criterion.bench_function(step.name, |bencher| bencher.iter(|| (step.run)()));
    }
    criterion.final_summary();
    Ok(())
}

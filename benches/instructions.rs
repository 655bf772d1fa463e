//! Runs one step a given number of times: `bench-instructions STEP TIMES`. Without arguments, lists
//! the steps. Two runs under callgrind with different TIMES yield the instructions of one step,
//! excluding start-up (`make bench-instructions`).

#[path = "steps/list.rs"]
mod list;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), list::Failure> {
    let mut arguments = std::env::args().skip(1);
    let steps = list::all()?;
    let Some(name) = arguments.next() else {
        for step in steps {
            println!("{}", step.name);
        }
        return Ok(());
    };
    let times: u64 = arguments.next().ok_or("how many times?")?.parse()?;
    let mut step = steps.into_iter().find(|s| s.name == name).ok_or("no such step")?;
    for _ in 0..times {
        (step.run)();
    }
    Ok(())
}

//! `turnpike-sim`.
fn main() {
    let pool = sim::pool::Pool::new();
    let from: u64 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0);
    let count: u64 = std::env::args().nth(2).and_then(|n| n.parse().ok()).unwrap_or(10);
    let mut marks = sim::marks::Marks::default();
    let mut failed = 0;
    let story = std::env::var("STORY").is_ok();
    for seed in from..from + count {
        match sim::run::run(seed, &Default::default(), &pool, story) {
            Ok(outcome) => outcome.marks.0.iter().for_each(|(name, n)| marks.add(name, *n)),
            Err(mut failure) => { failed += 1; for line in std::mem::take(&mut failure.story) { println!("{line}"); } let lines = std::mem::take(&mut failure.evidence); println!("seed {seed}: {failure:?}"); for line in lines { println!("  | {line}"); } }
        }
    }
    for (name, n) in &marks.0 { println!("{n:8} {name}"); }
    println!("{failed} failed of {count}");
}

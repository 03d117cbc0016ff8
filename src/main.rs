//! The `dynamomini` program.
fn main() {}

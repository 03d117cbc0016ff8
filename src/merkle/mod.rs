//! Hash trees over the records of one node: what anti-entropy compares instead of the records themselves.
//!
//! One [`Tree`] for each partition and replica count, each leaf the sum of what its records add, so that a write costs a
//! subtraction and an addition. A [`Forest`] is all trees of a node; it takes every change that the storage takes, and
//! checks itself against pages read from the storage. A [`Descent`] compares one tree on two nodes level by level, and
//! [`Held`] a page of records. Everything here is pure: it sees digests and never values, and knows neither peers nor
//! storage, nor when it is asked.

mod check;
mod compare;
mod forest;
mod tree;

#[cfg(test)]
mod tests;

pub use check::Item;
pub use check::Page;
pub use check::Window;
pub use compare::Descent;
pub use compare::Held;
pub use compare::Leaves;
pub use compare::Step;
pub use forest::Change;
pub use forest::Flight;
pub use forest::Forest;
pub use tree::Shape;
pub use tree::Tree;

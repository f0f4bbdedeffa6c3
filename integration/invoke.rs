//! Calls: what a function gets, what the caller gets, and everything that can go wrong between the two.

mod bodies;
mod cancelled;
mod failures;
mod first;
mod flight;
mod load;
mod logs;
mod names;
mod overload;
mod values;

//! What calls functions besides clients: the clock, and Kafka.

mod cron;
mod kafka;

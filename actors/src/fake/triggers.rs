//! A clock that goes with tokio's, and calls and readers of Kafka that are written down.

use std::collections::BTreeMap;
use std::time::SystemTime;

use tokio::time::sleep;

use super::{Fake, Working, ms};
use crate::name::FunctionName;
use crate::outcome::Outcome;
use crate::stats::FeedFigures;
use crate::world::{Caller, Clock, Diary, Feed, Feeds, KafkaSource, LocalFuture};

impl Clock for Fake {
    fn now(&self) -> SystemTime {
        let state = self.state();
        state.day + state.began.elapsed()
    }
}

impl Diary for Fake {
    fn read(&self) -> BTreeMap<String, u64> {
        self.state().diary.clone()
    }
    fn write(&self, schedules: BTreeMap<String, u64>) -> LocalFuture<()> {
        let world = self.clone();
        Box::pin(async move {
            sleep(ms(1)).await;
            let mut state = world.state();
            state.diary = schedules;
            state.n_diary_writes += 1;
        })
    }
}

impl Caller for Fake {
    fn call_by_clock(&self, name: FunctionName, _schedule: String, time: SystemTime) -> LocalFuture<Outcome> {
        let world = self.clone();
        Box::pin(async move {
            let took = {
                let mut state = world.state();
                state.calls.push((name.to_string(), time));
                state.n_calling += 1;
                state.call_time
            };
            let _working = Working(world.clone(), |state| state.n_calling -= 1);
            sleep(took).await;
            world.state().call_outcome.clone()
        })
    }
}

pub(crate) struct FakeFeed {
    id: u64,
    world: Fake,
}

impl Feeds for Fake {
    type Feed = FakeFeed;

    fn open(&self, name: &FunctionName, source: &KafkaSource) -> Result<FakeFeed, String> {
        let mut state = self.state();
        state.n_feeds_opened += 1;
        if let Some(error) = &state.feed_error {
            return Err(error.clone());
        }
        let id = state.next_id;
        state.next_id += 1;
        state.feeds.insert(id, (name.to_string(), source.topics[0].clone()));
        Ok(FakeFeed { id, world: self.clone() })
    }
}

impl Feed for FakeFeed {
    fn is_alive(&self) -> bool {
        !self.world.state().dead.contains(&self.id)
    }
    fn figures(&self) -> FeedFigures {
        FeedFigures::default()
    }
}

impl Drop for FakeFeed {
    fn drop(&mut self) {
        self.world.state().feeds.remove(&self.id);
    }
}

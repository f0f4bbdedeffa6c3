//! A partition whose function answers as it is told, and whose reader's thread is the test.

use std::cell::RefCell;

use actors::world::LocalFuture;
use slog::{Discard, o};
use tokio::task::{LocalSet, spawn_blocking, spawn_local, yield_now};

use super::*;
use crate::triggers::{Answer, Event};

/// Long enough that a test which waits it out has failed.
const LONG: Duration = Duration::from_secs(60);

/// A function that has itself sent to this record whenever it is called.
#[derive(Default)]
struct SendsBack {
    to: i64,
    called: RefCell<Vec<String>>,
}

impl Calls for SendsBack {
    fn call(&self, _name: &FunctionName, event: Event) -> LocalFuture<Answer> {
        let offset = event.headers.iter().find(|(name, _)| *name == "x-kafka-offset").unwrap().1.clone();
        self.called.borrow_mut().push(offset);
        let answer = Answer { outcome: Outcome::Done { status: 200 }, found: Some(self.to.to_string()) };
        Box::pin(async { answer })
    }
}

/// A partition that has been opened, and what its reader's thread hears.
fn opened() -> (Arc<Shared>, Reader, mpsc::UnboundedReceiver<Command>) {
    let (commands, heard) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::new(commands));
    let function = Arc::new(Function {
        name: "f".parse().unwrap(),
        group: "lambda-f".to_owned(),
        calls_max: 5,
        dead_letters: None,
        shared: Arc::clone(&shared),
        stats: Box::leak(Box::default()),
        given_up: Telling::default(),
        not_understood: Telling::default(),
        not_sought: Telling::default(),
        log: Logger::root(Discard, o!()),
    });
    let (key, run, records, stopped) = shared.open("log", 0);
    (shared, Reader { function, key, run, records, stopped }, heard)
}

fn come(shared: &Shared, offset: i64) {
    let came = shared.with("log", 0, |to| {
        to.records.send(Item { record: Record::made_up(offset, b""), epoch: to.run.epoch() }).is_ok()
    });
    assert_eq!(came, Some(true));
}

/// Stops all of it as the reader's thread does, which does nothing else meanwhile. Gives what is to be committed.
async fn stop(shared: &Arc<Shared>) -> Vec<(String, i32, i64)> {
    let shared = Arc::clone(shared);
    let began = Instant::now();
    let left = spawn_blocking(move || shared.stop(None, LONG)).await.unwrap();
    assert!(began.elapsed() < LONG, "it has waited for who waits for it");
    left.into_iter().map(|((topic, partition), next)| (topic.to_string(), partition, next)).collect()
}

#[tokio::test]
async fn a_partition_that_is_stopped_while_it_seeks_goes_on_where_it_was_sent() {
    let (shared, reader, mut heard) = opened();
    let calls = Rc::new(SendsBack { to: 3, ..SendsBack::default() });
    LocalSet::new()
        .run_until(async {
            come(&shared, 7);
            come(&shared, 8);
            let reading = spawn_local(reader.read(Rc::clone(&calls) as Rc<dyn Calls>));
            let Some(Command::Seek { offset: 3, done, .. }) = heard.recv().await else { panic!("no seek") };
            assert_eq!(stop(&shared).await, [("log".to_owned(), 0, 3)]);
            assert!(done.is_closed(), "nobody seeks for it any more");
            reading.await.unwrap();
        })
        .await;
    assert_eq!(*calls.called.borrow(), ["7"]);
}

#[tokio::test]
async fn a_partition_that_is_stopped_before_it_seeks_goes_on_where_it_was_sent() {
    let (shared, mut reader, mut heard) = opened();
    assert!(reader.run.begin());
    LocalSet::new()
        .run_until(async {
            let seeking = spawn_local(async move {
                reader.seek(3, LONG * 60).await;
                reader.run.end();
            });
            yield_now().await;
            assert_eq!(stop(&shared).await, [("log".to_owned(), 0, 3)]);
            seeking.await.unwrap();
        })
        .await;
    assert!(heard.try_recv().is_err(), "nobody is asked to seek");
}

#[tokio::test]
async fn a_partition_whose_turn_to_be_called_has_not_come_is_stopped_without_a_call() {
    let (shared, reader, _heard) = opened();
    let calls = Rc::new(SendsBack::default());
    // Others are called, as many as may be.
    let n = u32::try_from(shared.permits.available_permits()).unwrap();
    let _others = shared.permits.acquire_many(n).await.unwrap();
    LocalSet::new()
        .run_until(async {
            come(&shared, 7);
            let reading = spawn_local(reader.read(Rc::clone(&calls) as Rc<dyn Calls>));
            yield_now().await;
            assert_eq!(stop(&shared).await, []);
            reading.await.unwrap();
        })
        .await;
    assert!(calls.called.borrow().is_empty());
}

#[tokio::test]
async fn a_seek_that_succeeds_is_committed_and_drops_what_was_read_ahead() {
    let (shared, reader, mut heard) = opened();
    let calls = Rc::new(SendsBack { to: 3, ..SendsBack::default() });
    LocalSet::new()
        .run_until(async {
            come(&shared, 7);
            come(&shared, 8);
            let reading = spawn_local(reader.read(Rc::clone(&calls) as Rc<dyn Calls>));
            let Some(Command::Seek { key, done, .. }) = heard.recv().await else { panic!("no seek") };
            assert!(shared.next_epoch(&key));
            done.send(Ok(())).unwrap();
            // The one that it was sent to, which sends it to itself; slower.
            come(&shared, 3);
            let Some(Command::Seek { done, .. }) = heard.recv().await else { panic!("no seek") };
            assert_eq!(*calls.called.borrow(), ["7", "3"]);
            assert_eq!(shared.uncommitted(), [(key, 3)]);
            drop(done);
            stop(&shared).await;
            reading.await.unwrap();
        })
        .await;
}

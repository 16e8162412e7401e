//! A JavaScript engine that runs a projection as KurrentDB's documentation says its own does.

use std::collections::BTreeMap;

use rquickjs::{CatchResultExt, Context, Ctx, FromJs, Function, Object, Persistent, Runtime};
use serde_json::{Value, json};

const API: &str = include_str!("engine.js");

/// The most that KurrentDB keeps for one partition, in bytes.
pub const STATE_BYTES_MAX: usize = 16 << 20;

/// An event as a projection sees it.
#[derive(Clone, Debug)]
pub struct Event {
    pub stream: String,
    pub revision: u64,
    pub kind: String,
    /// JSON as it is stored.
    pub data: String,
    pub is_json: bool,
}

impl Event {
    fn text(&self) -> String {
        let Self { stream, revision, kind, data, is_json } = self;
        json!({ "stream": stream, "revision": revision, "kind": kind, "data": data,
                "is_json": is_json })
        .to_string()
    }
}

/// A projection, and the states of its partitions as the server stores them: as text.
pub struct Engine {
    source: String,
    realm: Realm,
    states: BTreeMap<String, String>,
    pub emitted: Vec<Value>,
}

/// One load of the script. What it keeps outside of its states goes away with it.
struct Realm {
    api: Option<Persistent<Object<'static>>>,
    context: Context,
}

impl Realm {
    fn load(source: &str) -> Self {
        let context = Context::full(&Runtime::new().unwrap()).unwrap();
        let api = context.with(|ctx| {
            let api: Object = caught(&ctx, ctx.eval(API)).unwrap();
            Persistent::save(&ctx, api)
        });
        let realm = Self { api: Some(api), context };
        realm.context.with(|ctx| {
            caught::<()>(&ctx, ctx.eval(source)).unwrap_or_else(|error| panic!("{error}"));
        });
        realm.call::<()>("start", &[]).unwrap_or_else(|error| panic!("{error}"));
        realm
    }

    /// Calls a function of the API; what it throws is the error.
    fn call<T: for<'js> FromJs<'js>>(&self, name: &str, args: &[&str]) -> Result<T, String> {
        self.context.with(|ctx| {
            let api = self.api.clone().unwrap().restore(&ctx).unwrap();
            let function: Function = api.get(name).unwrap();
            let called = match args {
                [] => function.call(()),
                [one] => function.call((*one,)),
                [one, two, ..] => function.call((*one, *two)),
            };
            caught(&ctx, called)
        })
    }
}

impl Drop for Realm {
    fn drop(&mut self) {
        // Before its context goes away.
        self.context.with(|_| drop(self.api.take()));
    }
}

fn caught<'js, T>(ctx: &Ctx<'js>, result: rquickjs::Result<T>) -> Result<T, String> {
    result.catch(ctx).map_err(|error| error.to_string())
}

impl Engine {
    /// Loads a projection. Panics if the server would refuse it.
    pub fn load(source: &str) -> Self {
        let realm = Realm::load(source);
        Self { source: source.to_owned(), realm, states: BTreeMap::new(), emitted: Vec::new() }
    }

    /// Forgets whatever the script keeps outside of its states, as a restarted server does.
    pub fn restart(&mut self) {
        self.realm = Realm::load(&self.source);
    }

    /// Has one event handled, with the state as text before and after it. Returns what a handler
    /// threw, or did against the rules.
    pub fn feed(&mut self, event: &Event) -> Result<(), String> {
        self.feed_all(std::slice::from_ref(event))
    }

    /// The same with events of one partition, and the state as text only before and after them all.
    pub fn feed_all(&mut self, events: &[Event]) -> Result<(), String> {
        let mut current: Option<String> = None;
        for event in events {
            let text = event.text();
            let partition: Option<String> = self.realm.call("partition", &[&text])?;
            let Some(partition) = partition else { continue };
            if current.is_none() {
                self.open(&partition)?;
                current = Some(partition.clone());
            }
            assert_eq!(current.as_ref(), Some(&partition), "events of more than one partition");
            self.realm.call::<()>("handle", &[&text, &partition])?;
        }
        current.map_or(Ok(()), |partition| self.close(partition))
    }

    /// Has a stream deleted, for projections that take note of it.
    pub fn delete(&mut self, stream: &str) -> Result<(), String> {
        self.open(stream)?;
        self.realm.call::<()>("deleted", &[stream])?;
        self.close(stream.to_owned())
    }

    fn open(&self, partition: &str) -> Result<(), String> {
        match self.states.get(partition) {
            Some(state) => self.realm.call("load", &[state]),
            None => self.realm.call("load", &[]),
        }
    }

    fn close(&mut self, partition: String) -> Result<(), String> {
        let state: String = self.realm.call("save", &[])?;
        if state.len() >= STATE_BYTES_MAX {
            return Err(format!("the state of {partition:?} has {} bytes", state.len()));
        }
        self.states.insert(partition, state);
        let emitted: String = self.realm.call("emitted", &[])?;
        self.emitted.extend(serde_json::from_str::<Vec<Value>>(&emitted).unwrap());
        Ok(())
    }

    /// All states, by partition; the one of a projection without partitions under "".
    pub fn states(&self) -> BTreeMap<String, Value> {
        let parse =
            |(name, text): (&String, &String)| (name.clone(), serde_json::from_str(text).unwrap());
        self.states.iter().map(parse).collect()
    }

    /// The size of the largest state, in bytes.
    pub fn largest_state(&self) -> usize {
        self.states.values().map(String::len).max().unwrap_or(0)
    }

    /// What the projection makes of a state for those who ask for its result.
    pub fn result(&self, partition: &str) -> Result<Value, String> {
        let text: String = self.realm.call("result", &[&self.states[partition]])?;
        Ok(serde_json::from_str(&text).unwrap())
    }
}

fn event(stream: &str, revision: u64, kind: &str, data: Value) -> Event {
    let (stream, kind, data) = (stream.to_owned(), kind.to_owned(), data.to_string());
    Event { stream, revision, kind, data, is_json: true }
}

fn run(source: &str, events: &[Event]) -> Result<Engine, String> {
    let mut engine = Engine::load(source);
    events.iter().try_for_each(|event| engine.feed(event))?;
    Ok(engine)
}

#[test]
fn sources_partitions_and_handlers_are_as_documented() {
    let events = [
        event("order-1", 0, "placed", json!({ "city": "Rome" })),
        event("order-2", 0, "placed", json!({ "city": "Oslo" })),
        event("order-1", 1, "shipped", json!({})),
        event("cart-1", 0, "placed", json!({ "city": "Rome" })),
    ];
    let count = "$init: () => ({ n: 0 }), $any: (s) => { s.n += 1; return s; }";
    let counts = |source: &str| {
        let engine = run(&format!("{source}.when({{ {count} }})"), &events).unwrap();
        let states = engine.states().into_iter();
        states.map(|(name, state)| format!("{name}={}", state["n"])).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(counts("fromAll()"), "=4");
    assert_eq!(counts("fromCategory('order')"), "=3");
    assert_eq!(counts("fromStream('order-1')"), "=2");
    assert_eq!(counts("fromStreams('order-2', 'cart-1')"), "=2");
    assert_eq!(counts("fromCategory('order').foreachStream()"), "order-1=2 order-2=1");
    assert_eq!(counts("fromAll().partitionBy((e) => e.data.city)"), "Oslo=1 Rome=2");
}

#[test]
fn links_emitted_events_results_and_deletions_are_as_documented() {
    let source = "options({ resultStreamName: 'results' });
        fromAll().foreachStream().when({
          $init: () => ({ n: 0 }),
          placed: (s, e) => { s.n += e.body.n; linkTo('placed', e); emit('sums', 'sum', s); return s; },
          $deleted: (s) => { s.n = -1; },
        }).transformBy((s) => ({ total: s.n })).filterBy((r) => r.total > 1).outputState();";
    let placed = |n: u64| event("order-1", n, "placed", json!({ "n": n + 1 }));
    let mut engine = run(source, &[placed(0)]).unwrap();
    assert_eq!(engine.result("order-1"), Ok(Value::Null));
    engine.feed(&placed(1)).unwrap();
    assert_eq!(engine.result("order-1"), Ok(json!({ "total": 3 })));
    let emitted = [
        json!({ "streamId": "placed", "eventType": "$>", "body": "0@order-1" }),
        json!({ "streamId": "sums", "eventType": "sum", "body": { "n": 1 } }),
    ];
    assert_eq!(engine.emitted[..2], emitted);
    engine.delete("order-1").unwrap();
    assert_eq!(engine.states()["order-1"], json!({ "n": -1 }));
}

#[test]
fn what_the_server_would_not_run_as_written_is_an_error() {
    let events = [event("a-1", 0, "x", json!({})), event("a-1", 1, "x", json!({}))];
    let wrong = [
        ("(s) => ({ n: 1 })", "does not return the state"),
        ("(s) => { s.n = 1; }", "does not return the state"),
        ("(s) => { s.seen = new Set(); return s; }", "not plain JSON"),
        ("(s) => { s.n = 0 / 0; return s; }", "not plain JSON"),
        ("(s) => { s.n = undefined; return s; }", "not plain JSON"),
        ("(s) => { s.at = Date.now(); return s; }", "no clock"),
        ("(s) => { s.at = new Date().getTime(); return s; }", "no clock"),
        ("(s) => { s.n = Math.random(); return s; }", "no randomness"),
        ("(s) => { s.text = 'x'.repeat(16777216); return s; }", "bytes"),
        ("(s, e) => { e.data.missing.field; return s; }", "of undefined"),
    ];
    for (handler, says) in wrong {
        let error = run(&format!("fromAll().when({{ x: {handler} }})"), &events).err();
        assert!(error.as_ref().is_some_and(|error| error.contains(says)), "{handler}: {error:?}");
    }
    // What is kept beside the state is gone after a restart, and shows as another state.
    let beside = "let n = 0; fromAll().when({ x: (s) => { n += 1; s.n = n; return s; } })";
    let lasting = run(beside, &events).unwrap().states();
    let mut engine = Engine::load(beside);
    for event in &events {
        engine.restart();
        engine.feed(event).unwrap();
    }
    assert_ne!(engine.states(), lasting);
}

// Appends, reads and subscribes with the official client for Node; every check is an assertion.

const assert = require("node:assert/strict");
const {
  ANY,
  BACKWARDS,
  END,
  KurrentDBClient,
  NO_STREAM,
  START,
  STREAM_EXISTS,
  StreamNotFoundError,
  WrongExpectedVersionError,
  AccessDeniedError,
  eventTypeFilter,
  excludeSystemEvents,
  jsonEvent,
  streamNameFilter,
} = require("@kurrent/kurrentdb-client");

const noted = (n) =>
  jsonEvent({
    id: `00000000-0000-4000-8000-${String(n).padStart(12, "0")}`,
    type: "Noted",
    data: { n },
    metadata: { by: "me" },
  });

async function all(events) {
  const found = [];
  for await (const { event } of events) found.push(event);
  return found;
}

const numbers = (events) => events.map((event) => event.data.n);

/** Takes `count` events of a subscription, then ends it. */
async function take(subscription, count, between = () => {}) {
  const found = [];
  for await (const { event } of subscription) {
    found.push(event);
    await between(found.length);
    if (found.length === count) break;
  }
  await subscription.unsubscribe();
  return found;
}

async function main() {
  const client = KurrentDBClient.connectionString(process.argv.at(-1));
  const append = (events, streamState) => client.appendToStream("user-node", events, { streamState });

  await assert.rejects(all(client.readStream("user-node")), StreamNotFoundError);
  const first = await append([noted(1)], NO_STREAM);
  assert.equal(first.nextExpectedRevision, 0n);
  const second = await append([noted(2), noted(3)], 0n);
  assert.equal(second.position.commit, first.position.commit + 2n);
  assert.deepEqual(await append([noted(2), noted(3)], 0n), second);
  await append([noted(4)], STREAM_EXISTS);
  await assert.rejects(append([noted(5)], 7n), WrongExpectedVersionError);
  await assert.rejects(append([noted(5)], NO_STREAM), WrongExpectedVersionError);
  await assert.rejects(
    client.appendToStream("policy", [noted(6)], { streamState: ANY }),
    AccessDeniedError,
  );
  await assert.rejects(client.deleteStream("user-node", { expectedRevision: ANY }));
  // At once, over one call.
  await Promise.all([10, 11, 12, 13].map((n) => append([noted(n)], ANY)));

  const records = [
    { streamName: "user-node", record: noted(20) },
    { streamName: "user-node-2", record: noted(21) },
  ];
  const checks = [{ type: "streamState", streamName: "user-node", expectedState: 7n }];
  const appended = await client.appendRecords(records, checks);
  assert.ok(appended.position > second.position.commit);
  await assert.rejects(
    client.appendRecords([{ streamName: "user-node", record: noted(22) }], checks),
  );

  const events = await all(client.readStream("user-node"));
  assert.deepEqual(numbers(events).slice(0, 4), [1, 2, 3, 4]);
  assert.deepEqual(numbers(events).slice(4, 8).sort(), [10, 11, 12, 13]);
  assert.equal(events[0].metadata.by, "me");
  assert.deepEqual(events[0].created, new Date(1_700_000_000_000));
  const last = await all(
    client.readStream("user-node", { direction: BACKWARDS, fromRevision: END, maxCount: 1 }),
  );
  assert.deepEqual(numbers(last), [20]);
  const newest = await all(client.readAll({ direction: BACKWARDS, fromPosition: END, maxCount: 2 }));
  assert.deepEqual(numbers(newest), [21, 20]);

  const followed = await take(
    client.subscribeToAll({ fromPosition: first.position, filter: excludeSystemEvents() }),
    10,
    async (count) => {
      if (count === 9) await append([noted(30)], ANY);
    },
  );
  assert.deepEqual([numbers(followed)[0], numbers(followed)[9]], [2, 30]);
  const stream = await take(client.subscribeToStream("user-node", { fromRevision: 8n }), 1);
  assert.deepEqual(numbers(stream), [30]);
  for (const filter of [
    streamNameFilter({ prefixes: ["user-node-2"] }),
    streamNameFilter({ regex: "^user-node-2$" }),
  ]) {
    const some = await take(client.subscribeToAll({ fromPosition: START, filter }), 1);
    assert.deepEqual(numbers(some), [21]);
  }
  const typed = eventTypeFilter({ prefixes: ["Noted"] });
  const one = await take(client.subscribeToAll({ fromPosition: second.position, filter: typed }), 1);
  assert.deepEqual(numbers(one), [4]);

  await client.dispose();
  console.log("node: done");
}

main().then(
  () => process.exit(0),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

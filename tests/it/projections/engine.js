// KurrentDB's projection API, as far as its documentation describes it, and with its limits made
// errors: a handler changes the state that it is given and returns it; the state is plain JSON; no
// clock, no randomness; a definition cannot be changed once events flow.
//
// The value of this script is the runner that the test calls.
(function (global) {
  const definition = {
    sources: null,
    partitions: "none",
    partitionBy: null,
    handlers: null,
    transforms: [],
    outputState: false,
  };
  const OPTIONS = ["$includeLinks", "reorderEvents", "processingLag", "resultStreamName"];
  let state;
  let emitted = [];

  // Which calls may follow each other.
  const steps = {
    partitionBy(by) {
      definition.partitions = "by";
      definition.partitionBy = by;
      return only("when");
    },
    foreachStream() {
      definition.partitions = "stream";
      return only("when");
    },
    when(handlers) {
      for (const [name, handler] of Object.entries(handlers)) {
        if (typeof handler !== "function") {
          throw new Error(`the handler of ${name} is no function`);
        }
      }
      if (handlers.$deleted && definition.partitions !== "stream") {
        throw new Error("$deleted needs foreachStream");
      }
      definition.handlers = handlers;
      return only("transformBy", "filterBy", "outputState");
    },
    transformBy(transform) {
      definition.transforms.push(transform);
      return only("transformBy", "filterBy", "outputState");
    },
    filterBy(keep) {
      definition.transforms.push((state) => (keep(state) ? state : null));
      return only("transformBy", "filterBy", "outputState");
    },
    outputState() {
      definition.outputState = true;
      return only("transformBy", "filterBy");
    },
  };

  function only(...names) {
    return Object.fromEntries(names.map((name) => [name, steps[name]]));
  }

  function from(matches, ...next) {
    if (definition.sources) {
      throw new Error("a projection has one source");
    }
    definition.sources = matches;
    return only(...next);
  }

  const define = {
    options(given) {
      const unknown = Object.keys(given).find((name) => !OPTIONS.includes(name));
      if (unknown) {
        throw new Error(`Unrecognized option: ${unknown}`);
      }
    },
    fromAll: () => from(() => true, "partitionBy", "when", "foreachStream", "outputState"),
    fromCategory: (category) =>
      from(
        (stream) => stream.split("-")[0] === category,
        "partitionBy", "when", "foreachStream", "outputState",
      ),
    fromStream: (name) =>
      from((stream) => stream === name, "partitionBy", "when", "outputState"),
    fromStreams: (...names) =>
      from((stream) => names.flat().includes(stream), "partitionBy", "when", "outputState"),
  };

  const run = {
    log() {},
    emit(streamId, eventType, body, metadata) {
      emitted.push({ streamId, eventType, body, metadata });
    },
    linkTo(streamId, event, metadata) {
      const body = `${event.sequenceNumber}@${event.streamId}`;
      emitted.push({ streamId, eventType: "$>", body, metadata });
    },
  };

  function forbid(name) {
    return () => {
      throw new Error(`a projection has no ${name}`);
    };
  }

  function envelope(recorded, partition) {
    const data = recorded.is_json ? JSON.parse(recorded.data) : undefined;
    return {
      isJson: recorded.is_json,
      data,
      body: data,
      bodyRaw: recorded.data,
      sequenceNumber: recorded.revision,
      partition,
      eventType: recorded.kind,
      streamId: recorded.stream,
      metadata: {},
      metadataRaw: "{}",
    };
  }

  function handlerOf(kind) {
    const { handlers } = definition;
    return Object.hasOwn(handlers, kind) ? handlers[kind] : handlers.$any;
  }

  function isPlain(value) {
    if (value === null || ["string", "boolean"].includes(typeof value)) {
      return true;
    }
    if (typeof value === "number") {
      return Number.isFinite(value);
    }
    const prototype = typeof value === "object" ? Object.getPrototypeOf(value) : null;
    return [Object.prototype, Array.prototype].includes(prototype)
      && Object.values(value).every(isPlain);
  }

  Object.assign(global, define);
  global.log = run.log;
  Math.random = forbid("randomness");
  Date.now = forbid("clock");
  const RealDate = Date;
  global.Date = new Proxy(RealDate, {
    apply: forbid("clock"),
    construct: (target, given) => (given.length ? new target(...given) : forbid("clock")()),
  });

  return {
    // The definition is complete: only handlers run from here on.
    start() {
      if (!definition.sources || !definition.handlers) {
        throw new Error("a projection has a source and handlers");
      }
      Object.keys(define).forEach((name) => delete global[name]);
      Object.assign(global, run);
    },
    // The partition that an event belongs to; undefined if the projection does not see it.
    partition(text) {
      const recorded = JSON.parse(text);
      if (!definition.sources(recorded.stream) || !handlerOf(recorded.kind)) {
        return undefined;
      }
      if (definition.partitions === "stream") {
        return recorded.stream;
      }
      if (definition.partitions === "none") {
        return "";
      }
      const partition = definition.partitionBy(envelope(recorded, ""));
      return ["string", "number"].includes(typeof partition) ? String(partition) : undefined;
    },
    load(text) {
      const { $init } = definition.handlers;
      state = text === undefined ? ($init ? $init() : {}) : JSON.parse(text);
    },
    handle(text, partition) {
      const recorded = JSON.parse(text);
      const returned = handlerOf(recorded.kind)(state, envelope(recorded, partition));
      if (returned !== state) {
        throw new Error(`the handler of ${recorded.kind} does not return the state it was given`);
      }
    },
    // What is returned does not matter.
    deleted(partition) {
      definition.handlers.$deleted(state, null, partition, false);
    },
    save() {
      if (!isPlain(state)) {
        throw new Error("the state is not plain JSON");
      }
      return JSON.stringify(state);
    },
    result(text) {
      const transform = (state, by) => (state === null ? null : by(state));
      return JSON.stringify(definition.transforms.reduce(transform, JSON.parse(text)));
    },
    emitted() {
      const all = emitted;
      emitted = [];
      return JSON.stringify(all);
    },
  };
})(globalThis);

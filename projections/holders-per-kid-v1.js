// Who holds a license for each KID: a partition for each KID, named by its UUID.
//
// Reads $all, since `$by_category` would write a link for every event of the database.
//
// State: `holders`, how many devices have a live license, and which, each with its licenses and
// when those end (`null`: when an event ends them). A device is the one that acquired the license,
// also after its licenses moved to another one: the event that moves them names many KIDs, and an
// event belongs to one partition.
//
// The engine has no clock, so a license expires with the next event about its KID; whoever reads
// the state at another time leaves out what ends before that. At most LICENSES_MAX are kept, about
// 2 MB; what comes beyond them is only counted, as `untracked`, until as many that nobody knows
// have ended.

const LICENSES_MAX = 20000;

// Other applications may keep streams in the same database.
const DEVICE_STREAM = /device-[a-z2-7]{26}$/;

// A reference has 26 characters, whatever comes before it in the stream's name.
function deviceOf(event) {
  return event.streamId.slice(-26);
}

function issue(state, e, device) {
  if (state.live_licenses >= LICENSES_MAX) {
    state.untracked += 1;
    return;
  }
  if (!state.devices[device]) {
    state.devices[device] = {};
    state.holders += 1;
  }
  state.devices[device][e.license_id] = e.counted_until_ms;
  state.live_licenses += 1;
  noteEnd(state, e.counted_until_ms);
}

function acquired(state, e, device) {
  if (e.persistent.effective) {
    issue(state, e, device);
  }
}

function recorded(state, e, device) {
  if (e.persistent) {
    issue(state, e, device);
  }
}

// Nearly always the device whose event this is; another one if the license moved.
function findHolder(state, licenseId, device) {
  const has = (name) => state.devices[name] && state.devices[name][licenseId] !== undefined;
  return has(device) ? device : Object.keys(state.devices).find(has);
}

function remove(state, holder, licenseId) {
  delete state.devices[holder][licenseId];
  state.live_licenses -= 1;
  if (Object.keys(state.devices[holder]).length === 0) {
    delete state.devices[holder];
    state.holders -= 1;
  }
}

function ended(state, e, device) {
  const holder = findHolder(state, e.license_id, device);
  if (holder) {
    remove(state, holder, e.license_id);
  } else if (state.untracked > 0) {
    state.untracked -= 1;
  }
}

function deleted(state, e, device) {
  if (e.releases) {
    ended(state, e, device);
  }
}

function writtenOff(state, e, device) {
  if (e.frees_at_ms === undefined) {
    ended(state, e, device);
    return;
  }
  const holder = findHolder(state, e.license_id, device);
  if (holder) {
    const licenses = state.devices[holder];
    licenses[e.license_id] = Math.min(licenses[e.license_id] ?? Infinity, e.frees_at_ms);
    noteEnd(state, licenses[e.license_id]);
  }
}

// All licenses are looked through only when one of them ends.
function noteEnd(state, untilMs) {
  if (untilMs !== null) {
    state.next_end_ms = Math.min(state.next_end_ms ?? Infinity, untilMs);
  }
}

function forgetExpired(state) {
  if (state.next_end_ms === null || state.next_end_ms > state.at_ms) {
    return;
  }
  state.next_end_ms = null;
  for (const holder of Object.keys(state.devices)) {
    const licenses = state.devices[holder];
    for (const licenseId of Object.keys(licenses)) {
      if (licenses[licenseId] !== null && licenses[licenseId] <= state.at_ms) {
        remove(state, holder, licenseId);
      } else {
        noteEnd(state, licenses[licenseId]);
      }
    }
  }
}

function apply(change) {
  return function (state, event) {
    change(state, event.data, deviceOf(event));
    state.at_ms = Math.max(state.at_ms, event.data.at_ms);
    forgetExpired(state);
    return state;
  };
}

fromAll()
  .partitionBy(function (event) {
    return DEVICE_STREAM.test(event.streamId) && event.data ? event.data.key_id : null;
  })
  .when({
    $init: function () {
      return {
        at_ms: 0,
        holders: 0,
        live_licenses: 0,
        untracked: 0,
        next_end_ms: null,
        devices: {},
      };
    },
    "license-acquired.v1": apply(acquired),
    "license-recorded.v1": apply(recorded),
    "license-deleted.v1": apply(deleted),
    "deletion-recorded.v1": apply(deleted),
    "license-voided.v1": apply(ended),
    "license-written-off.v1": apply(writtenOff),
  });

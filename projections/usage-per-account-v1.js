// What each account uses: a partition for each stream `account-…`, which mirrors what the streams
// of its devices say about licenses at its expense.
//
// Reads $all, since `$by_category` would write a link for every event of the database.
//
// State: the licenses and reservations that no event has ended and that had not expired at `at_ms`,
// the time of the account's newest event here; the slots that they take, by device as well; and
// `issued`, the persistent licenses ever acquired. The engine has no clock, so nothing expires
// between events: whoever reads the state at another time leaves out each license whose `until_ms`
// has come. At most LICENSES_MAX are kept, about 600 KB; what comes beyond them is only counted, as
// `untracked`.

const LICENSES_MAX = 3000;

// Other applications may keep streams in the same database.
const ACCOUNT_STREAM = /account-[a-z2-7]{26}$/;

function taken(state, e) {
  if (!e.reserved) {
    state.issued += 1;
  }
  if (Object.keys(state.licenses).length < LICENSES_MAX) {
    const { device, key_id, counted_until_ms: until_ms, reserved } = e;
    state.licenses[e.license_id] = { device, key_id, until_ms, confirmed: false, reserved };
  } else {
    state.untracked += 1;
  }
}

function confirmed(state, e) {
  const license = state.licenses[e.license_id];
  if (license) {
    license.confirmed = e.confirmed;
  }
}

function released(state, e) {
  const license = state.licenses[e.license_id];
  if (e.frees_at_ms === undefined) {
    delete state.licenses[e.license_id];
  } else if (license) {
    license.until_ms = Math.min(license.until_ms ?? Infinity, e.frees_at_ms);
    license.confirmed = false;
  }
}

function moved(state, e) {
  for (const license of Object.values(state.licenses)) {
    if (license.device === e.from) {
      license.device = e.into;
    }
  }
}

function forgetExpired(state) {
  for (const licenseId of Object.keys(state.licenses)) {
    const { until_ms } = state.licenses[licenseId];
    if (until_ms !== null && until_ms <= state.at_ms) {
      delete state.licenses[licenseId];
    }
  }
}

// A slot is a device and a KID. Those that are only reserved count apart.
function count(state) {
  const slots = { live: new Set(), confirmed: new Set(), reserved: new Set() };
  state.devices = {};
  for (const { device, key_id, confirmed, reserved } of Object.values(state.licenses)) {
    const slot = `${device}/${key_id}`;
    if (reserved) {
      slots.reserved.add(slot);
      continue;
    }
    if (!slots.live.has(slot)) {
      state.devices[device] = (state.devices[device] ?? 0) + 1;
    }
    slots.live.add(slot);
    if (confirmed) {
      slots.confirmed.add(slot);
    }
  }
  state.live_slots = slots.live.size;
  state.confirmed_slots = slots.confirmed.size;
  state.reserved_slots = slots.reserved.size;
}

function apply(change) {
  return function (state, event) {
    if (ACCOUNT_STREAM.test(event.streamId) && event.data) {
      change(state, event.data);
      state.at_ms = Math.max(state.at_ms, event.data.at_ms);
      forgetExpired(state);
      count(state);
    }
    return state;
  };
}

fromAll()
  .foreachStream()
  .when({
    $init: function () {
      return {
        at_ms: 0,
        issued: 0,
        live_slots: 0,
        confirmed_slots: 0,
        reserved_slots: 0,
        untracked: 0,
        devices: {},
        licenses: {},
      };
    },
    "slot-taken.v1": apply(taken),
    "slot-confirmed.v1": apply(confirmed),
    "slot-released.v1": apply(released),
    "slots-moved.v1": apply(moved),
  });

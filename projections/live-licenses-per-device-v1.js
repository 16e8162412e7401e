// What each device holds: a partition for each stream `device-…`.
//
// Reads $all, since `$by_category` would write a link for every event of the database.
//
// State: the licenses that no event has ended and that had not expired at `at_ms`, the time of the
// device's newest event here. The engine has no clock, so nothing expires between events: whoever
// reads the state at another time leaves out each license whose `until_ms` has come. At most
// LICENSES_MAX are kept, about 300 KB; what comes beyond them is only counted, as `untracked`.

const LICENSES_MAX = 2000;

// Other applications may keep streams in the same database.
const DEVICE_STREAM = /device-[a-z2-7]{26}$/;

function hold(state, licenseId, license) {
  if (Object.keys(state.licenses).length < LICENSES_MAX) {
    state.licenses[licenseId] = license;
  } else {
    state.untracked += 1;
  }
}

function issue(state, e) {
  const { key_id, counted_until_ms: until_ms } = e;
  hold(state, e.license_id, { key_id, until_ms, stored: false, given_up: false });
}

function acquired(state, e) {
  if (e.persistent.effective) {
    issue(state, e);
  }
}

function recorded(state, e) {
  if (e.persistent) {
    issue(state, e);
  }
}

function ended(state, e) {
  delete state.licenses[e.license_id];
}

function stored(state, e) {
  const license = state.licenses[e.license_id];
  if (license) {
    license.stored = true;
  }
}

function storageRecorded(state, e) {
  if (e.stored) {
    stored(state, e);
  }
}

// Evidence may be too weak to end the license; the device says all the same that it keeps nothing.
function deleted(state, e) {
  const license = state.licenses[e.license_id];
  if (e.releases) {
    ended(state, e);
  } else if (license) {
    license.given_up = true;
  }
}

function writtenOff(state, e) {
  const license = state.licenses[e.license_id];
  if (e.frees_at_ms === undefined) {
    ended(state, e);
  } else if (license) {
    license.until_ms = Math.min(license.until_ms ?? Infinity, e.frees_at_ms);
    license.given_up = true;
  }
}

function tookOver(state, e) {
  for (const moved of e.licenses) {
    if (!moved.reservation) {
      const { key_id, counted_until_ms: until_ms = null, stored } = moved;
      const given_up = moved.deleted || moved.written_off;
      hold(state, moved.license_id, { key_id, until_ms, stored, given_up });
    }
  }
}

function merged(state) {
  state.licenses = {};
  state.untracked = 0;
}

function replaced(state, e) {
  if (e.licenses === "moved") {
    merged(state);
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

// A slot is a KID of which at least one license is live; it is confirmed if the device keeps one.
function count(state) {
  const live = new Set();
  const confirmed = new Set();
  const licenses = Object.values(state.licenses);
  for (const license of licenses) {
    live.add(license.key_id);
    if (license.stored && !license.given_up) {
      confirmed.add(license.key_id);
    }
  }
  state.live_licenses = licenses.length;
  state.live_slots = live.size;
  state.confirmed_slots = confirmed.size;
}

function apply(change) {
  return function (state, event) {
    if (DEVICE_STREAM.test(event.streamId) && event.data) {
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
        live_licenses: 0,
        live_slots: 0,
        confirmed_slots: 0,
        untracked: 0,
        licenses: {},
      };
    },
    "license-acquired.v1": apply(acquired),
    "license-recorded.v1": apply(recorded),
    "license-stored.v1": apply(stored),
    "storage-recorded.v1": apply(storageRecorded),
    "license-deleted.v1": apply(deleted),
    "deletion-recorded.v1": apply(deleted),
    "license-voided.v1": apply(ended),
    "license-written-off.v1": apply(writtenOff),
    "device-took-over.v1": apply(tookOver),
    "device-merged.v1": apply(merged),
    "device-replaced.v1": apply(replaced),
  });

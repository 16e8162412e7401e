// How many acquisitions quota rules refused on each day of UTC, and which rules: one state.
//
// A device that keeps asking is recorded once an hour for a KID and rule, and 100 times a day at
// most, so these are refusals recorded, not requests.
//
// State: the newest DAYS_MAX days that had any, each with at most RULES_MAX rules, the rest of them
// under `other_rules`; about 2 MB if every day had as many.

const DAYS_MAX = 400;
const RULES_MAX = 64;

// Other applications may keep streams in the same database.
const DEVICE_STREAM = /device-[a-z2-7]{26}$/;

function dayOf(ms) {
  return new Date(ms).toISOString().slice(0, 10);
}

// A rule may be called `constructor`, which every object has, but not as its own.
function has(object, name) {
  return Object.prototype.hasOwnProperty.call(object, name);
}

function refused(state, e) {
  const day = dayOf(e.at_ms);
  if (!has(state.days, day)) {
    state.days[day] = { refusals: 0, rules: {}, other_rules: 0 };
  }
  const today = state.days[day];
  today.refusals += 1;
  if (has(today.rules, e.rule)) {
    today.rules[e.rule] += 1;
  } else if (Object.keys(today.rules).length < RULES_MAX) {
    today.rules[e.rule] = 1;
  } else {
    today.other_rules += 1;
  }
}

function forgetOldDays(state) {
  const days = Object.keys(state.days).sort();
  for (const day of days.slice(0, Math.max(0, days.length - DAYS_MAX))) {
    delete state.days[day];
  }
}

fromAll().when({
  $init: function () {
    return { days: {} };
  },
  "acquisition-refused.v1": function (state, event) {
    if (DEVICE_STREAM.test(event.streamId) && event.data) {
      refused(state, event.data);
      forgetOldDays(state);
    }
    return state;
  },
});

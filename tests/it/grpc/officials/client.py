"""Appends, reads and subscribes with the official client for Python; every check is an assertion."""

import json
import sys
import uuid

from kurrentdbclient import KurrentDBClient, NewEvent, StreamState
from kurrentdbclient.events import NewRecord, StreamStateCheck
from kurrentdbclient.exceptions import (
    AccessDeniedError,
    ConsistencyChecksFailedError,
    KurrentDBClientError,
    NotFoundError,
    WrongCurrentVersionError,
)


def noted(n, **others):
    data = json.dumps({"n": n}).encode()
    return NewEvent(type="Noted", data=data, id=uuid.UUID(int=n), **others)


def raises(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}")


def data(events):
    return [json.loads(event.data)["n"] for event in events]


client = KurrentDBClient(sys.argv[1])
append = client.append_to_stream

# One event goes by Append, several by BatchAppend.
raises(NotFoundError, lambda: client.get_stream("user-python"))
first = append("user-python", current_version=StreamState.NO_STREAM, events=noted(1))
several = [noted(2, metadata=b'{"by": "me"}'), noted(3)]
position = append("user-python", current_version=0, events=several)
assert position == first + 2
assert append("user-python", current_version=StreamState.ANY, events=several) == position
assert append("user-python", current_version=StreamState.NO_STREAM, events=noted(1)) == first
append("user-python", current_version=StreamState.EXISTS, events=noted(4))
for events in (noted(5), [noted(5), noted(6)]):
    for wrong in (7, StreamState.NO_STREAM):
        raises(
            WrongCurrentVersionError,
            lambda: append("user-python", current_version=wrong, events=events),
        )
raises(AccessDeniedError, lambda: append("policy", current_version=StreamState.ANY, events=noted(7)))
raises(
    KurrentDBClientError,
    lambda: client.delete_stream("user-python", current_version=StreamState.ANY),
)

# Several streams, with checks.
records = [
    NewRecord(stream_name="user-python", type="Noted", data=b'{"n": 8}', id=uuid.UUID(int=8)),
    NewRecord(
        stream_name="user-python-2",
        type="Noted",
        data=b'{"n": 9}',
        metadata=b'{"by": "me"}',
        id=uuid.UUID(int=9),
    ),
]
checks = [StreamStateCheck(stream_name="user-python", expected_state=3)]
result = client.append_records(records, checks)
ends = [(end.stream_name, end.stream_position) for end in result.stream_positions]
assert ends == [("user-python", 4), ("user-python-2", 0)], ends
assert client.append_records(records, checks) == result
more = [NewRecord(stream_name="user-python", type="Noted", data=b'{"n": 10}')]
checks.append(StreamStateCheck(stream_name="user-none", expected_state=StreamState.EXISTS))
failed = raises(ConsistencyChecksFailedError, lambda: client.append_records(more, checks))
assert len(failed.failures) == 2, failed.failures

# Reads.
events = client.get_stream("user-python")
assert data(events) == [1, 2, 3, 4, 8]
assert [event.stream_position for event in events] == [0, 1, 2, 3, 4]
assert events[1].metadata == b'{"by": "me"}'
assert events[0].recorded_at.timestamp() == 1_700_000_000, events[0].recorded_at
backwards = client.get_stream("user-python", stream_position=2, backwards=True, limit=2)
assert data(backwards) == [3, 2]
assert data(client.read_all(commit_position=position, limit=2)) == [3, 4]
assert data(client.read_all(backwards=True, commit_position=position, limit=2)) == [2, 1]
ours = client.read_all(filter_exclude=[], filter_include=["user-.*"], filter_by_stream_name=True)
assert data(ours) == [1, 2, 3, 4, 8, 9]
assert client.get_commit_position() == result.commit_position
assert client.get_current_version("user-python") == 4

# Subscriptions, with the exclusion of system events that the client adds by itself.
with client.subscribe_to_all(commit_position=position) as subscription:
    assert data([next(subscription) for _ in range(3)]) == [4, 8, 9]
    append("user-python", current_version=StreamState.ANY, events=noted(11))
    assert data([next(subscription)]) == [11]
with client.subscribe_to_stream("user-python", stream_position=4) as subscription:
    assert data([next(subscription)]) == [11]
with client.subscribe_to_all(
    filter_include=["user-python-2"],
    filter_by_stream_name=True,
    include_checkpoints=True,
    include_caught_up=True,
) as subscription:
    kinds = []
    while "CaughtUp" not in kinds:
        kinds.append(type(next(subscription)).__name__)
    assert kinds.count("RecordedEvent") == 1, kinds
    assert kinds[-2:] == ["Checkpoint", "CaughtUp"], kinds

client.close()
print("python: done")

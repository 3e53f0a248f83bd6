"""The lease: one holder at a time while all is well, and nobody waits for the dead."""

import json
import subprocess
from dataclasses import replace

import pytest

from batch.errors import Busy
from batch.execution import lease
from batch.execution.holder import Holder, _started
from batch.storage import storage_for
from tests.clocks import FakeClock

OUTPUT = "s3://bucket/out.csv"


def take(root, clock=None, run_id="one"):
    return lease.acquire(f"{root}/outputs/x", output=OUTPUT, job="weekly", run_id=run_id, clock=clock or FakeClock())


def body(held):
    return json.loads(storage_for(held.uri).get(held.uri))


def rewrite(held, **changes):
    """Let the epoch file say something else, as another process would have written it."""
    text = json.dumps(body(held) | changes).encode()
    storage_for(held.uri).replace(held.uri, [text], len(text))


@pytest.fixture(autouse=True)
def nothing_held():
    yield
    lease.release_all()


def test_a_released_lease_is_free_at_once(any_root):
    """The second holder takes the next epoch without waiting, and knows which one it follows."""
    first = take(any_root)
    first.release()
    clock = FakeClock()
    second = take(any_root, clock)
    assert (first.epoch, second.epoch, clock.seconds) == (1, 2, 0.0)
    assert (second.before.number, second.before.body["state"]) == (1, "released")


def test_a_living_holder_is_busy(any_root):
    """A heartbeat seen while watching ends the wait: exit 75, and the sentence names who is at work."""
    held = take(any_root)
    with pytest.raises(Busy, match=r"out\.csv is being worked on by job 'weekly' \(run one") as caught:
        take(any_root, FakeClock(meanwhile=held.renew))
    assert caught.value.exit_code == 75


def test_a_silent_holder_is_taken_over(any_root):
    """No heartbeat for 1.5 x TTL on the contender's own clock, whatever any wall clock says."""
    take(any_root)
    clock = FakeClock()
    assert take(any_root, clock).epoch == 2
    assert clock.seconds >= lease.WATCH_SECONDS == 1.5 * lease.TTL_SECONDS


def test_a_lease_released_while_watched_is_taken(any_root):
    """A contender does not give up on a run that just ends."""
    held = take(any_root)
    clock = FakeClock(meanwhile=held.release)
    assert take(any_root, clock).epoch == 2
    assert clock.seconds < lease.TTL_SECONDS


def test_a_zombie_notices_and_stops(any_root):
    """A holder that was paused past its deadline looks before it acts, and leaves the new holder's lease alone."""
    clock = FakeClock()
    zombie = take(any_root, clock)
    successor = take(any_root)
    zombie.check()  # within its deadline it need not look
    clock.seconds += lease.TTL_SECONDS + 1
    with pytest.raises(Busy, match="took over"):
        zombie.check()
    zombie.release()
    assert body(successor)["state"] == "held"
    successor.check()


def test_an_outage_alone_loses_nothing(any_root):
    """Past its deadline a holder that nobody has followed renews and goes on."""
    clock = FakeClock()
    held = take(any_root, clock)
    clock.seconds += 100 * lease.TTL_SECONDS
    held.check()
    assert body(held)["sequence"] == 2


def test_a_dead_process_of_this_host_is_recognised_at_once(tmp_path):
    """Kill -9, then run again: no waiting."""
    process = subprocess.Popen(["sleep", "60"])
    owner = replace(Holder.myself(), pid=process.pid, started=_started(process.pid))
    held = take(tmp_path)
    rewrite(held, holder=owner.as_dict())
    assert not lease.newest(f"{tmp_path}/outputs/x/lease").is_free
    process.kill()
    process.wait()
    clock = FakeClock()
    assert (take(tmp_path, clock).epoch, clock.seconds) == (2, 0.0)


@pytest.mark.parametrize("change", [{"boot_id": "another"}, {"pid_namespace": "pid:[1]"}, {"started": ""}])
def test_a_process_elsewhere_is_never_taken_for_dead(change):
    """Another boot, another container or a system without /proc: from here nobody can know."""
    gone = replace(Holder.myself(), pid=2**22 - 1)
    assert gone.is_dead()
    assert not replace(gone, **change).is_dead()
    assert not Holder.myself().is_dead()


def test_a_reused_pid_is_another_process():
    """The start time tells a process from its predecessor with the same number."""
    assert replace(Holder.myself(), started="1").is_dead()


def test_an_unreadable_lease_blocks_nobody_for_ever(tmp_path):
    """Bytes that no run of ours wrote are watched like a silent holder, then followed."""
    held = take(tmp_path)
    storage_for(held.uri).replace(held.uri, [b"\xff not json"], 9 + 1)
    assert take(tmp_path).epoch == 2


@pytest.mark.parametrize(
    "strange",
    [
        {"holder": None},
        {"holder": "me"},
        {"holder": {"pid": 1}},
        {"state": None},
        {"state": 7},
        {"job": None},
        {"run_id": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("state", ["held", "released"])
def test_a_lease_that_is_not_one_of_ours_is_watched(tmp_path, strange, state):
    """Half a holder, no state, no job: not ours, so wait whether it changes; if it does somebody is there, if not we go on."""
    held = take(tmp_path)
    changed = body(held) | {"state": state} | strange
    calls = 0

    def write():
        nonlocal calls
        calls += 1
        text = json.dumps({name: value for name, value in (changed | {"nonce": calls}).items() if value is not None})
        storage_for(held.uri).replace(held.uri, [text.encode()], -1)

    write()
    with pytest.raises(Busy, match="somebody else writes to the lease"):
        take(tmp_path, FakeClock(meanwhile=write))
    clock = FakeClock()
    assert take(tmp_path, clock).epoch == 2
    assert clock.seconds >= 30


def test_old_epochs_are_cleared_away(tmp_path):
    """Hourly jobs for years leave a handful of files, and numbers are never used twice."""
    for _ in range(14):
        take(tmp_path).release()
    names = sorted(path.name for path in (tmp_path / "outputs" / "x" / "lease").iterdir())
    assert (len(names), names[-1]) == (9, "00000014")


def test_the_heart_beats_in_the_background(tmp_path):
    """With the real clock the epoch file changes by itself, and not after the release."""
    from batch.clock import SYSTEM

    class Quick(type(SYSTEM)):
        def wait(self, event, seconds):
            return super().wait(event, seconds / 500)

    held = take(tmp_path, Quick())
    while body(held)["sequence"] < 3:
        pass
    held.release()
    last = body(held)
    assert last["state"] == "released"
    assert body(held) == last

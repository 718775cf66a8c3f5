"""The protocol between the threads of a run, in every interleaving of their operations.

The search runs the code of `_execute` itself. To show that it can fail, it also runs versions with
errors, and has to find each of them.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
from interleavings import InterleavingError, Search
from networks import model_of, random_latents, small
from numba import njit
from protocol_model import PROTOCOL, Model, Step, Variant, threads_of

import oobleck_stream as ob
from oobleck_stream.engine.cpu import engine as processor
from oobleck_stream.engine.cpu.interpreter import INSIDE, LINE, OPEN, control_words
from oobleck_stream.engine.cpu.machine import atomic_add, atomic_load

RUNS = {
    "products and moves": [[Step(2), Step(1, 1)], [Step(1, 1), Step(2)]],
    "joined steps": [[Step(2, joined=True), Step(2, 1)], [Step(1), Step(1, joined=True), Step(1)]],
    "steps without jobs": [[Step(), Step(1), Step()], [Step(0, 2), Step()]],
    "three runs": [[Step(2)], [Step(2)], [Step(2)]],
    "runs without steps": [[], [Step(1)], []],
}


def search(runs, followers=2, variant=PROTOCOL):
    """All interleavings; raises `InterleavingError` at the first one that breaks a rule."""
    model = Model(runs)
    return Search(threads_of(model, followers, variant), model.start)


@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS)
def test_every_interleaving(runs):
    """Each job once, none before its step, nothing touched by latecomers, no race, no deadlock."""
    found = search(runs)
    for shared, _ in found.ends():
        assert shared.words[OPEN // 8] == shared.words[INSIDE // 8] == 0


def test_the_leader_finishes_without_followers():
    """While no follower is inside, the leader alone comes to its end."""
    found = search(RUNS["products and moves"])
    leader, ends = 0, set()
    for number, (shared, _) in enumerate(found.states):
        path = []
        while shared.words[INSIDE // 8] == 0 and number not in ends:
            path.append(number)
            following = found.follow(number, leader)
            if following == number:
                found.fail(number, "the leader waits, though no follower is inside")
            if following is None:
                break
            number = following
        ends.update(path)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("runs", "followers"),
    [
        ([[Step(2), Step(1, 1)], [Step(1, 1), Step(2)]], 3),
        ([[Step(3, joined=True), Step(1, 2), Step(2)], [Step(1, 1), Step(2), Step(1)]], 2),
        ([[Step(2), Step(2)]] * 4, 2),
        ([[Step(2)], [Step(2)]], 4),
    ],
)
def test_every_interleaving_of_more(runs, followers):
    search(runs, followers)


def changed(*changes):
    """The protocol with changes of the source of `_execute`."""
    return Variant(changes=changes)


ENTER = """        atomic_add(control + INSIDE, 1)
        if atomic_load(control + OPEN) != ticket:
            atomic_add(control + INSIDE, -1)
            return
"""
LEAVE = """    else:
        atomic_add(control + INSIDE, -1)
"""
CLOSE = "        atomic_add(control + OPEN, -ticket)\n"
WAIT_FOR_FOLLOWERS = "        _wait_until(control + INSIDE, 0)\n"
WAIT_FOR_JOBS = "        _wait_until(done, jobs)\n"
FIRST_CLAIM = "        job = atomic_add(claimed, 1)\n        while"
JOB = "            if job >= product_jobs:\n"
DONE = "            atomic_add(done, 1)\n"
NEXT_CLAIM = "            job = atomic_add(claimed, 1)\n"

RACE = "^data race"
ERRORS = {
    "the gate is checked before the follower is counted": (
        changed(
            (ENTER, "        if atomic_load(control + OPEN) != ticket:\n            return\n"
                    "        atomic_add(control + INSIDE, 1)\n"),
        ),
        RACE,
    ),
    "the leader does not wait for followers": (changed((WAIT_FOR_FOLLOWERS, "")), RACE),
    "the leader waits for followers before it closes the gate": (
        changed((CLOSE + WAIT_FOR_FOLLOWERS, WAIT_FOR_FOLLOWERS + CLOSE)),
        RACE,
    ),
    "the gate is never closed": (changed((CLOSE, "")), RACE),
    "a job is claimed before the gate is checked": (
        changed((ENTER, "        atomic_add(control + LINE, 1)\n" + ENTER)),
        RACE,
    ),
    "any open gate will do": (
        changed(("(control + OPEN) != ticket", "(control + OPEN) == 0")),
        "at the counters of run",
    ),
    "a follower that is refused stays counted": (
        changed((ENTER, ENTER.replace("            atomic_add(control + INSIDE, -1)\n", ""))),
        "^deadlock",
    ),
    "a follower that has finished stays counted": (changed((LEAVE, "")), "^deadlock"),
    "a follower is not counted while it works": (
        changed((ENTER, ENTER + "        atomic_add(control + INSIDE, -1)\n"), (LEAVE, "")),
        RACE,
    ),
    "no thread waits for the end of a step": (changed((WAIT_FOR_JOBS, "")), RACE),
    "only the leader waits for the end of a step": (
        changed((WAIT_FOR_JOBS, "        if leader:\n    " + WAIT_FOR_JOBS)),
        RACE,
    ),
    "threads wait for all jobs but one": (
        changed(("_wait_until(done, jobs)", "_wait_until(done, max(0, jobs - 1))")),
        RACE,
    ),
    "a job is counted as done before it is done": (
        changed((JOB, DONE + JOB), (DONE + NEXT_CLAIM, NEXT_CLAIM)),
        RACE,
    ),
    "a claim is a load and a store": (
        changed(
            (FIRST_CLAIM, "        job = atomic_load(claimed)\n"
                          "        store_word(claimed, job + 1)\n        while"),
            (NEXT_CLAIM, "            job = atomic_load(claimed)\n"
                         "            store_word(claimed, job + 1)\n"),
        ),
        RACE,
    ),
    "a claim is a load and an addition": (
        changed(
            (FIRST_CLAIM, "        job = atomic_load(claimed)\n"
                          "        atomic_add(claimed, 1)\n        while"),
            (NEXT_CLAIM, "            job = atomic_load(claimed)\n"
                         "            atomic_add(claimed, 1)\n"),
        ),
        f"{RACE}|a second time",
    ),
    "the last job is left out": (
        changed(("        while job < jobs:", "        while job < jobs - 1:")),
        "^deadlock",
    ),
    "a step is done although it was joined with the one before": (
        changed(("steps[index - 1, JOINED] != 0", "steps[index - 1, JOINED] > 1")),
        "no such job",
    ),
    "the counters are not zeroed": (Variant(first_zeroed=control_words(3)), "^deadlock"),
    "the gate is zeroed too": (Variant(first_zeroed=0), RACE),
    "two runs have one ticket": (Variant(tickets=(1, 1)), "at the counters of run"),
    "a ticket is 0": (Variant(tickets=(0, 1)), RACE),
}  # fmt: skip


@pytest.mark.parametrize(("variant", "message"), ERRORS.values(), ids=ERRORS)
def test_the_search_finds_known_faults(variant, message):
    runs = [[Step(2, joined=True), Step(2), Step(1)], [Step(1, 1), Step(2)]]
    with pytest.raises(InterleavingError, match=message):
        search(runs, variant=variant)


def test_the_caller_prepares_a_run_as_in_the_search(monkeypatch):
    """The counters are zeroed, the gate is left alone, and every run has another ticket."""
    model = model_of(small("ezaudio"))
    decoder = ob.StreamingDecoder(model, threads=1)
    latents = random_latents(model.config, 30)
    engine, run, tickets = decoder._streams.stack._engine, processor.run_program, []

    def checked_run(program, addresses, parameters, control, ticket, scratch, threads):
        gate = control[: LINE // 8].copy()
        np.testing.assert_array_equal(gate[[OPEN // 8, INSIDE // 8]], before)
        assert not control[LINE // 8 : control_words(len(program.steps))].any()
        tickets.append(ticket)
        control[: LINE // 8] = 0
        run(program, addresses, parameters, control, ticket, scratch, threads)

    before = [0, 0]
    monkeypatch.setattr(processor, "run_program", checked_run)
    decoder.push(latents[:20])
    for frame in latents[20:]:
        engine._control[:] = 7
        before = [7, 7]
        decoder.push(frame)
    assert len(set(tickets)) == len(tickets) > 10
    assert min(tickets) > 0


def test_atomic_operations_are_sequentially_consistent():
    """The search takes this for granted."""

    @njit("int64(int64, int64)")
    def both(address, amount):
        return atomic_add(address, amount) + atomic_load(address)

    code = "".join(both.inspect_llvm().values())
    assert re.search(r"atomicrmw add .* seq_cst", code)
    assert re.search(r"load atomic .* seq_cst", code)

"""Exhaustive search over all interleavings of a few threads that share memory.

A thread's code is an ordinary Python function. Everything that it does to shared memory goes
through `Routine.perform`, one operation at a time, so all that the rest of the code can depend on
is what its operations returned. A thread is therefore run again from its beginning with the
recorded results of its first operations, and stopped at the next one. Where it stopped (the
positions in the code and the integers among the local variables) is its local state; what follows
from a local state and a result is computed once.

The search visits every state of memory and threads that any order of the operations can reach.
Operations are sequentially consistent. That is enough for processors and compilers that reorder
more, because the search also finds data races: two conflicting operations of which at least one is
not atomic, and which two threads could make next in the same state. A program without data races
whose atomic operations are all sequentially consistent has, in the memory model of C++ and LLVM, no
other behaviour than that of an interleaving.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NoReturn

import numpy as np

MAX_STATES = 2_000_000
"""States of a search. More means that a local variable counts up without end."""

Places = frozenset[Hashable]


class InterleavingError(AssertionError):
    """An interleaving breaks a rule. The message ends with the operations that lead there."""


@dataclass(frozen=True)
class Operation:
    """One operation on shared memory.

    Parameters
    ----------
    text : str
        How traces show it.
    apply : callable
        ``apply(shared)`` gives the result and the shared memory afterwards, or raises
        `InterleavingError`.
    reads, writes : frozenset
        The places that it reads and those that it writes.
    atomic : bool
    """

    text: str
    apply: Callable[[Any], tuple[int, Any]] = field(compare=False)
    reads: Places = frozenset()
    writes: Places = frozenset()
    atomic: bool = False

    def races_with(self, other: Operation) -> bool:
        """Whether the two form a data race if both can be next."""
        if self.atomic and other.atomic:
            return False
        theirs = other.reads | other.writes
        return not (self.writes.isdisjoint(theirs) and other.writes.isdisjoint(self.reads))


class _Stopped(BaseException):
    def __init__(self, operation: Operation, position: Hashable) -> None:
        self.operation, self.position = operation, position


class Routine:
    """The code of a thread as a machine: local states, and an operation in each.

    Parameters
    ----------
    make : callable
        ``make(perform)`` gives the thread's function, which takes no arguments and calls
        ``perform(operation)`` for everything that it does to shared memory.
    uncounted : collection of str
        Local variables that count up without an effect on shared memory; they are left out of the
        local state.
    """

    def __init__(self, make: Callable[..., Callable[[], None]], uncounted: Sequence[str] = ()):
        self._uncounted = frozenset(uncounted)
        self._recorded: Iterator[int] = iter(())
        self._function = make(self.perform)
        self._numbers: dict[Hashable, int] = {}
        self._histories: list[tuple[int, ...]] = []
        self._after: dict[tuple[int, int], int] = {}
        self.operations: list[Operation | None] = []
        """The operation that comes next in each local state; None at the end."""
        self.first = self._reach(())

    def perform(self, operation: Operation) -> int:
        """Return what the operation returned before; stop the thread at the first new one."""
        for result in self._recorded:
            return result
        raise _Stopped(operation, self._position())

    def after(self, local: int, result: int) -> int:
        """The local state that follows when the operation of a local state returns a result."""
        following = self._after.get((local, result))
        if following is None:
            following = self._reach((*self._histories[local], result))
            self._after[local, result] = following
        return following

    def _reach(self, history: tuple[int, ...]) -> int:
        self._recorded = iter(history)
        operation, position = None, None
        try:
            self._function()
        except _Stopped as stopped:
            operation, position = stopped.operation, stopped.position
        number = self._numbers.setdefault((operation, position), len(self._histories))
        if number == len(self._histories):
            self._histories.append(history)
            self.operations.append(operation)
        return number

    def _position(self) -> Hashable:
        """Where each function on the stack stands, and the integers among its variables."""
        frames = []
        frame = sys._getframe(2)
        while frame.f_code is not Routine._reach.__code__:
            integers = tuple(
                (name, int(value))
                for name, value in sorted(frame.f_locals.items())
                if isinstance(value, int | np.integer) and name not in self._uncounted
            )
            frames.append((frame.f_code.co_name, frame.f_lasti, integers))
            assert frame.f_back is not None
            frame = frame.f_back
        return tuple(frames)


State = tuple[Any, tuple[int, ...]]


class Search:
    """All states that some threads can reach, and the ways between them.

    Parameters
    ----------
    threads : sequence of Routine
        Threads of the same `Routine` object are interchangeable; they stand side by side.
    shared : hashable
        Shared memory at the beginning.

    Raises
    ------
    InterleavingError
        When an operation breaks a rule, when two threads race, or from some state on the threads
        can't all come to their end.
    """

    def __init__(self, threads: Sequence[Routine], shared: Hashable) -> None:
        self.threads = threads
        self.states: list[State] = []
        self.transitions = 0
        self._numbers: dict[State, int] = {}
        self._origins: list[tuple[int, str]] = []
        self._before: list[list[int]] = []
        self._races: dict[tuple[int, int], bool] = {}
        self._ends: list[int] = []
        self._find(shared, tuple(routine.first for routine in threads), -1, "")
        number = 0
        while number < len(self.states):
            self._expand(number)
            number += 1
            if number > MAX_STATES:
                raise AssertionError(f"more than {MAX_STATES} states")
        self._check_that_all_can_end()

    def ends(self) -> list[State]:
        """The states in which all threads have come to their end."""
        return [self.states[number] for number in self._ends]

    def follow(self, number: int, thread: int) -> int | None:
        """The state after a thread's next operation; None when the thread has ended."""
        shared, local = self.states[number]
        operation = self.threads[thread].operations[local[thread]]
        if operation is None:
            return None
        result, shared = operation.apply(shared)
        return self._numbers[self._state(shared, local, thread, result)]

    def fail(self, number: int, message: str) -> NoReturn:
        """Raise `InterleavingError` with the shortest way to a state."""
        trace = []
        while number > 0:
            number, text = self._origins[number]
            trace.append(text)
        raise InterleavingError("\n  ".join([message, *reversed(trace)]))

    def _state(self, shared: Any, local: tuple[int, ...], thread: int, result: int) -> State:
        routine = self.threads[thread]
        changed = list(local)
        changed[thread] = routine.after(local[thread], result)
        alike = [i for i, other in enumerate(self.threads) if other is routine]
        if len(alike) > 1:
            first, end = alike[0], alike[-1] + 1
            changed[first:end] = sorted(changed[first:end])
        return shared, tuple(changed)

    def _find(self, shared: Any, local: tuple[int, ...], origin: int, text: str) -> int:
        state = shared, local
        number = self._numbers.setdefault(state, len(self.states))
        if number == len(self.states):
            self.states.append(state)
            self._origins.append((origin, text))
            self._before.append([])
        return number

    def _expand(self, number: int) -> None:
        shared, local = self.states[number]
        pending = [
            (thread, operation)
            for thread, routine in enumerate(self.threads)
            if (operation := routine.operations[local[thread]]) is not None
        ]
        if not pending:
            self._ends.append(number)
        for (one, first), (other, second) in combinations(pending, 2):
            if self._race(first, second):
                message = f"data race: thread {one} {first.text}, thread {other} {second.text}"
                self.fail(number, message)
        for thread, operation in pending:
            text = f"thread {thread} {operation.text}"
            try:
                result, after = operation.apply(shared)
            except InterleavingError as error:
                self.fail(number, f"{text}: {error}")
            following = self._find(*self._state(after, local, thread, result), number, text)
            self._before[following].append(number)
            self.transitions += 1

    def _race(self, first: Operation, second: Operation) -> bool:
        pair = id(first), id(second)
        known = self._races.get(pair)
        if known is None:
            known = self._races[pair] = first.races_with(second)
        return known

    def _check_that_all_can_end(self) -> None:
        """From every state some order of operations must lead to the end of all threads."""
        reached = set(self._ends)
        waiting = list(reached)
        while waiting:
            for number in self._before[waiting.pop()]:
                if number not in reached:
                    reached.add(number)
                    waiting.append(number)
        for number in range(len(self.states)):
            if number not in reached:
                self.fail(number, "deadlock: from here on the threads can't all end")

"""The process in which a peer runs: ``python -m oobleck_stream.bench.peer NAME``.

It reads one JSON object per line from standard input and writes one per line to standard output.
The first request describes what to build (``config``, ``half``, ``weights``, ``threads``) and its
input (``rows``, with ``frame_rows`` rows per latent frame). Each later request selects ``frames``
frames of the input, from frame ``first`` on. It asks the peer to write their output to a file
(``output``), to time calls for some ``seconds``, or both.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from functools import partial
from typing import Any, TextIO

import numpy as np

from oobleck_stream.bench.rounds import take_turn
from oobleck_stream.config import OobleckConfig

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Answer requests from standard input until the input ends."""
    _die_with_parent()
    answers = _own_output()
    setup = json.loads(sys.stdin.readline())
    about, run, rows = _build(sys.argv[1], setup)
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        first, end = request["first"], request["first"] + request["frames"]
        part = slice(first * setup["frame_rows"], end * setup["frame_rows"])
        block = np.ascontiguousarray(rows[part].T)[None]
        answer: dict[str, Any] = {}
        if "output" in request:
            np.save(request["output"], run(block)[0].T)
        if "seconds" in request:
            answer["times"] = take_turn(partial(run, block), request["seconds"])
        print(json.dumps(answer), file=answers, flush=True)


def _build(name: str, setup: dict[str, Any]) -> tuple[dict[str, str], Any, Any]:
    """Carry out the first request. Return the answer, the network as a function, and its input."""
    from oobleck_stream.bench.peer_networks import NETWORKS

    try:
        with np.load(setup["weights"]) as weights:
            config = OobleckConfig(**setup["config"])
            run, title = NETWORKS[name](config, setup["half"], weights, setup["threads"])
        return {"title": title}, run, np.load(setup["rows"])
    except ImportError as error:
        return {"problem": f"not installed ({error})"}, None, None
    except Exception as error:
        return {"problem": f"{type(error).__name__}: {error}".splitlines()[0]}, None, None


def _own_output() -> TextIO:
    """Reserve standard output for the answers: the output of runtimes goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers


def _die_with_parent() -> None:
    """On Linux, end this process when its parent ends, even if this process is stopped."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()

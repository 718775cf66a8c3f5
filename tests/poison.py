"""Loaded by Dask's workers: they kill themselves when a task has an input called poison."""

from __future__ import annotations

import os
import signal

from distributed import WorkerPlugin


class Poison(WorkerPlugin):
    def setup(self, worker):
        self.worker = worker

    def transition(self, key, start, finish, **_):
        if finish == "executing" and "poison" in repr(self.worker.state.tasks[key].run_spec.args):
            os.kill(os.getpid(), signal.SIGKILL)


async def dask_setup(worker):
    await worker.plugin_add(Poison())

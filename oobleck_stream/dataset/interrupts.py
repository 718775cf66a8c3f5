"""Makes the workers of a local cluster ignore Ctrl-C, which the process that started them handles.

The workers import this module when they start. Without it, each worker would print a traceback,
because a terminal sends SIGINT to all processes.
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

"""Makes the workers of a local cluster ignore Ctrl-C, which the process that started them handles.

A terminal sends SIGINT to all processes, and each worker would print a traceback. The workers
import this module when they start. Until then, the signal is blocked, except on Windows
(`engines.py`).
"""

from __future__ import annotations

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)

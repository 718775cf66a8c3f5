"""Live decoding over the network: HTTP, WebSocket, and a page for the browser.

How it works:

    client ── frames ──▶ source ─┐                              ┌─▶ unsent samples ──▶ client
                                 ├─ tick: one push for all ─────┤
    client ── heard ──▶ credit ──┘  (the decoding thread)       └─▶ shared sound ──▶ listeners

All state belongs to the event loop. A tick takes at most one block of frames from each session that
has frames and credit, decodes them in the decoding thread, and appends the samples to the sessions.
A session's connection sends what is unsent. Frames and samples are counted from the beginning of
the session and never backwards, so credit, resuming and seeking are comparisons of numbers.

`protocol` and `encoding` are pure functions; `sources` and `session` are state without I/O; `hub`
decides and ticks; `live`, `decoding` and `listening` are what clients connect to; `app` joins them.
"""

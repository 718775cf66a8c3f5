"""Live decoding over the network: HTTP, WebSocket, and a page for the browser.

How it works:

    client ── frames ──▶ source ─┐                              ┌─▶ unsent samples ──▶ client
                                 ├─ tick: one push for all ─────┤
    client ── heard ──▶ credit ──┘  (the decoding thread)       └─▶ shared sound ──▶ listeners

All state belongs to the event loop. A tick takes at most one block of frames from each session that
has frames and credit (at its start also the frames before its first sample), decodes them in the
decoding thread, and appends the samples to the sessions.
A session's connection sends the samples that have not been sent yet. Frames and samples are
numbered from the beginning of the session, and these numbers never decrease, not even after a seek.
Therefore credit, resuming and seeking only compare numbers.

`protocol` and `encoding` contain pure functions. `sources` and `session` hold state without I/O.
`hub` manages the sessions and runs the ticks. Clients connect to `live`, `decoding` and
`listening`, and `app` joins everything.
"""

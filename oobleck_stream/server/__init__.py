"""Live decoding over the network: HTTP, WebSocket, and a page for the browser.

How it works:

    client ── frames ──▶ source ─┐                              ┌─▶ unsent samples ──▶ client
                                 ├─ tick: one push for all ─────┤
    client ── heard ──▶ credit ──┘  (the decoding thread)       └─▶ shared sound ──▶ listeners

All state belongs to the event loop. The credit of a session is the number of samples that may be
decoded before its client has heard more. Each tick serves all sessions that have frames and credit.
It takes at most one block of frames from each of them, and at the start of a stream possibly also
the frames that are needed before the first sample. It decodes these frames in the decoding thread,
and appends the samples to the sessions. A session's connection sends the samples that have not been
sent yet.

Frames and samples are numbered from the beginning of the session. After a seek, the numbering
continues and does not start again at 0. Therefore the code for credit, resuming and seeking only
compares numbers.

`protocol` and `encoding` contain pure functions. `sources` and `session` hold state without I/O.
`hub` manages the sessions and runs the ticks. Clients connect to `live`, `decoding` and
`listening`, and `app` joins everything.
"""

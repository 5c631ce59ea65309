"""One round of a lane: read, judge, plan, write, read back, prove.

Level-triggered: a claimed mark says only *that* a subject must be looked at. The wish is read
afresh, so nothing can be replayed stale, and fifty changes to one person become one push.

`round` goes through the steps; each has a file: `reading`, `judging`, `planning`, `writing` (with
`fights` and `admission`, which keep changes back), `proving`. What they hand on is a `case`.
"""

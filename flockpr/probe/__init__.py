"""Tests a directory before it is trusted: alone, and from two hosts.

`findings`, `mounts` and `verdict` are pure. `operations` is what one process does in the
directory, `worker` such a process, `helpers` its other end: it may hang and is then given up.
`steps` are the experiments, `mailbox` lets a second host take part in them, `conduct` runs it all.
"""

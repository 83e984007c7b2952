"""The iSCSI door (RFC 7143).

Pure rooms, bytes in and events out: `pdu`, `digests`, `stream`, `keys`, `chap`, `login`,
`text`, `command`, `dataout`, `replies`, `numbers`, `events`, `session`. Everything else here
owns sockets and threads.
"""

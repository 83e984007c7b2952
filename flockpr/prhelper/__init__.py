"""The helper door: QEMU's pr-manager-helper protocol, served from lock directories.

`protocol` frames bytes, `listener` owns the socket's name, `identity` tells who is
connected, `door` decides what is refused here before a manager sees it, `server` and
`connection` run the threads, and `client` is the other side of the protocol.
"""

"""Reading a trace: what the proofs of order rest on."""

from __future__ import annotations

from tests.support.strace import parse

TRACE = """\
11 linkat(9</r/commits>, ".aside-1", 9</r/commits>, "0000000000000002.json", 0) = 0
12 recvmsg(6<UNIX-STREAM:[1->2,"/s"]>, <unfinished ...>
11 fsync(9</r/commits> <unfinished ...>
12 <... recvmsg resumed>{msg_iovlen=1}, 0) = 16
11 <... fsync resumed>) = -1 EIO (Input/output error) (INJECTED)
12 sendto(6<UNIX-STREAM:[1->2,"/s"]>, "\\0\\0"..., 104, MSG_NOSIGNAL, NULL, 0) = 104
11 +++ killed by SIGKILL +++
12 write(7</r/commits/.aside-2>(deleted), "a) = 1"..., 8 <detached ...>
"""


def test_trace_keeps_the_order_of_calls_that_overlap() -> None:
    """Of a call that is told in two lines, the first is its beginning and the second its end."""
    calls = parse(TRACE.splitlines())
    assert [(call.tid, call.name, call.entered, call.left) for call in calls] == [
        (11, "linkat", 0, 0),
        (12, "recvmsg", 1, 3),
        (11, "fsync", 2, 4),
        (12, "sendto", 5, 5),
        (12, "write", 7, None),
    ]


def test_trace_tells_success_from_failure_and_tampering() -> None:
    """A call that failed, or never came back, is not done; what strace did is marked."""
    link, received, synced, sent, written = parse(TRACE.splitlines())
    assert link.done
    assert received.done
    assert sent.done
    assert not synced.done
    assert synced.injected
    assert not written.done
    assert not link.injected


def test_trace_tells_the_files_and_names_of_a_call() -> None:
    """Paths of descriptors, also of a deleted file, and names below them."""
    link, received, synced, _, written = parse(TRACE.splitlines())
    assert link.on("/r/commits")
    assert link.names == [".aside-1", "0000000000000002.json"]
    assert received.paths == []
    assert synced.paths == ["/r/commits"]
    assert written.on("/r/commits/.aside-2")


def test_trace_of_one_thread_has_no_thread_numbers() -> None:
    """Without -f strace leaves the thread's number out."""
    (call,) = parse(["fcntl(5</r/locks>, F_OFD_SETLK, {l_type=F_WRLCK}) = 0"])
    assert (call.tid, call.name, call.done) == (0, "fcntl", True)

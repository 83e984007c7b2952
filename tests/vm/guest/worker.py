"""A Python that stays in a machine: files and locks stay open from one step to the next.

Usage: worker.py NAME

Each line of the pipe /run/NAME.in is a JSON object: ``code``, an expression or statements, and
``answer``, the path of a pipe for the JSON object that says what came of it: ``value``, or
``errno`` and ``text``, with the seconds that it took. Each runs in a thread of its own, all in
one namespace, so that one that is blocked keeps no other from running.
"""

import ctypes
import errno
import fcntl
import json
import os
import struct
import sys
import threading
import time
import traceback

R, W, U = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
_FLOCK = "hhqqi0q"


def opened(path, flags=os.O_RDWR | os.O_CREAT):
    """A descriptor."""
    return os.open(path, flags, 0o600)


def lock(fd, kind, start, length=1, wait=False):
    """Take (or, with U, give back) an OFD lock."""
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    fcntl.fcntl(fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def posix_lock(fd, kind, start, length=1):
    """Take (or, with U, give back) a POSIX lock."""
    fcntl.fcntl(fd, fcntl.F_SETLK, struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0))


def asked(fd, kind, start, length=1):
    """What F_OFD_GETLK tells: kind, start and length of who is in the way; None for nobody."""
    question = struct.pack(_FLOCK, kind, os.SEEK_SET, start, length, 0)
    found, _, first, count, _ = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, question))
    return None if found == U else [found, first, count]


def direct_write(fd, text, offset=0, size=4096):
    """Write a block through O_DIRECT; it begins with the text."""
    import mmap

    with mmap.mmap(-1, size) as buffer:
        buffer[: len(text)] = text.encode()
        return os.pwrite(fd, buffer, offset)


def direct_read(fd, offset=0, size=4096):
    """The text at the beginning of a block, read through O_DIRECT."""
    import mmap

    with mmap.mmap(-1, size) as buffer:
        os.preadv(fd, [buffer], offset)
        return bytes(buffer).rstrip(b"\0").decode()


def punch(fd, offset, length):
    """Deallocate bytes of a file, whose size stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, 3, ctypes.c_int64(offset), ctypes.c_int64(length)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def touch(fd):
    """A metadata write: the times of a file."""
    os.utime(fd)


def text_of(path):
    """Content of a file, opened anew."""
    with open(path) as file:
        return file.read()


def store(path, text):
    """A new file of this content, on stable storage."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, text.encode())
    os.fsync(fd)
    os.close(fd)


def answer(request, namespace):
    """Run the code of a request and tell what came of it."""
    began = time.monotonic()
    try:
        try:
            code = compile(request["code"], "<step>", "eval")
        except SyntaxError:
            exec(compile(request["code"], "<step>", "exec"), namespace)
            result = {"value": None}
        else:
            result = {"value": eval(code, namespace)}
    except OSError as error:
        result = {"errno": error.errno, "text": f"{errno.errorcode.get(error.errno)}: {error}"}
    except BaseException:
        result = {"errno": 0, "text": traceback.format_exc()}
    result["seconds"] = time.monotonic() - began
    with open(request["answer"], "w") as pipe:
        json.dump(result, pipe, default=repr)


def main():
    """Serve for ever."""
    path = f"/run/{sys.argv[1]}.in"
    namespace = dict(globals())
    # Opened to read and write: it must not end when the one who wrote to it closes it.
    with open(os.open(path, os.O_RDWR), encoding="ascii") as requests:
        for line in requests:
            threading.Thread(target=answer, args=(json.loads(line), namespace)).start()


main()

"""Runs commands of flockpr's command line in a machine, where a new Python takes many seconds.

Each line of the pipe /run/flockpr.in is a JSON object: ``arguments``, ``output``
and ``errors``, the paths of files for what the command prints, and ``answer``, the path of a pipe
for its exit status. Each
command is a process of its own, forked from this one, which has all that it needs loaded.
"""

import json
import os
import signal
import sys
import traceback

import flockpr.cli
import flockpr.gate
import flockpr.logical_unit
import flockpr.unit_status

PIPE = "/run/flockpr.in"


def carry_out(request):
    """The command, in a process that ends with it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for stream, path in ((1, request["output"]), (2, request["errors"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    status = 99
    try:
        status = int(flockpr.cli.main(request["arguments"]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    with open(request["answer"], "w", encoding="ascii") as answer:
        answer.write(f"{status}\n")


def main():
    """Serve for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.mkfifo(PIPE + ".new")
    os.rename(PIPE + ".new", PIPE)
    # Opened to read and write: it must not end when the one who wrote to it closes it.
    with open(os.open(PIPE, os.O_RDWR), encoding="ascii") as requests:
        for line in requests:
            if os.fork() == 0:
                try:
                    carry_out(json.loads(line))
                finally:
                    os._exit(0)


main()

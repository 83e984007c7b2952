"""`flockpr-fence-scsi`: runs the fence_scsi of Debian's fence-agents against logical units.

The agent's own file is executed, with its own interpreter. What it would ask of a device and of
root is answered here instead: that a logical unit may be fenced with is no question of device
nodes, and its key and device files go to a directory of this node, so that several nodes fit on
one machine.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence

from flockpr.errors import ConfigError, FlockprError
from flockpr.tools.streams import say, tell

PROGRAM = "flockpr-fence-scsi"
AGENT, STATE = "FLOCKPR_FENCE_AGENT", "FLOCKPR_FENCE_STATE"
USAGE = 1
"""As the agent leaves on a wrong option."""
HELP = f"""\
Usage: {PROGRAM} [OPTIONS]
Runs the fence agent fence_scsi, unmodified, against logical units: without a device and without
root. The options are the agent's, here or on standard input; `fence_scsi --help` lists them.
--devices=LUN names logical units, or their paths.

Environment: FLOCKPR_INITIATOR    the iSCSI name of this node (or `initiator` in [serve])
             FLOCKPR_ROOT         the root; FLOCKPR_CONFIG, the configuration file
             {AGENT}  the agent, where it is not found
             {STATE}  directory for the files of this node
Example:     FLOCKPR_INITIATOR=iqn.2026-01.org.example:node1 \\
             {PROGRAM} --action=status --devices=disk1 --plug=node1 --key=a1"""
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


def main(argv: Sequence[str] | None = None) -> int:
    """Become the agent: returns, with an exit code, only for help or where that cannot be.

    Args:
        argv: The agent's options; those of the process when None.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words in (["--help"], ["-h"]):
        tell([HELP])
        return 0
    try:
        command = command_line(words, os.environ)
        os.chdir(_root(os.environ))  # `--devices=disk1` is then the lock directory of disk1
    except (FlockprError, OSError) as error:
        say(f"{PROGRAM}: {error}")
        if remedy := getattr(error, "remedy", ""):
            say(f"  remedy: {remedy}")
        return USAGE
    os.execv(command[0], command)  # noqa: S606 - an agent's options are not a shell's
    raise AssertionError("execv does not return")


def command_line(words: Sequence[str], environ: Mapping[str, str]) -> list[str]:
    """What to execute.

    Args:
        words: The agent's options.
        environ: The environment.

    Raises:
        ConfigError: There is no agent, or no place for this node's files.
    """
    agent = _agent(environ)
    tools = [
        shlex.join([sys.executable, "-P", "-m", f"flockpr.tools.{name}"])
        for name in ("sg_persist", "sg_turs")
    ]
    runner = os.path.join(os.path.dirname(os.path.abspath(__file__)), "agent_runner.py")
    return [*_interpreter(agent), "-B", runner, agent, state_directory(environ), *tools, *words]


def state_directory(environ: Mapping[str, str]) -> str:
    """Where the files of this node go: a directory that a reboot empties, as the agent's own.

    Raises:
        ConfigError: Nothing says where.
    """
    stated = environ.get(STATE)
    if stated:
        return os.path.abspath(stated)
    initiator = environ.get("FLOCKPR_INITIATOR", "")
    run = "/run" if os.geteuid() == 0 else environ.get("XDG_RUNTIME_DIR", "")
    if not run or not initiator:
        raise ConfigError(
            "no directory for the files of this node",
            f"set {STATE}, or FLOCKPR_INITIATOR and XDG_RUNTIME_DIR",
        )
    return os.path.join(run, "flockpr", "fence", re.sub(r"[^\w.:-]", "_", initiator))


def _root(environ: Mapping[str, str]) -> str:
    from flockpr.tools.place import root_of

    return root_of(environ)


def _agent(environ: Mapping[str, str]) -> str:
    path = os.pathsep.join((environ.get("PATH", os.defpath), *_SBIN))
    found = environ.get(AGENT) or shutil.which("fence_scsi", path=path)
    if found is None or not os.path.isfile(found):
        raise ConfigError(
            f"there is no agent {found or 'fence_scsi'}",
            f"install the package fence-agents, or say where it is with {AGENT}",
        )
    return os.path.abspath(found)


def _interpreter(agent: str) -> list[str]:
    """What the agent's first line names: it has modules that ours may lack."""
    with open(agent, "rb") as file:
        first = os.fsdecode(file.readline(256)).strip()
    if not first.startswith("#!") or "python" not in first:
        raise ConfigError(f"{agent}: no Python script", f"say where the agent is with {AGENT}")
    return shlex.split(first[2:])


if __name__ == "__main__":
    sys.exit(main())

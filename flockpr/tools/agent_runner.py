"""Executes fence_scsi in a process of its own; see `flockpr.tools.fence_scsi`.

It runs in the agent's interpreter, which need not have flockpr: nothing of it is imported here.
Arguments: the agent, the directory for its files, the command lines of sg_persist and sg_turs,
then the agent's own options.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType
from typing import Any


def load(path: str) -> ModuleType:
    """The agent as a module; its `main` has not run."""
    loader = importlib.machinery.SourceFileLoader("fence_scsi", path)
    spec = importlib.util.spec_from_loader("fence_scsi", loader)
    if spec is None:
        raise ImportError(path)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def prepare(agent: Any, directory: str, sg_persist: str, sg_turs: str) -> None:
    """Replace what asks for a device node and for root.

    Args:
        agent: The module.
        directory: For its key and device files.
        sg_persist: Command line of it, unless an option says otherwise.
        sg_turs: Likewise.
    """

    def is_block_device(device: str) -> None:
        if not os.path.exists(device):
            agent.fail_usage(f'Failed: device "{device}" does not exist')

    define = agent.define_new_opts

    def define_new_opts() -> None:
        define()
        agent.all_opt["sg_persist_path"]["default"] = sg_persist
        agent.all_opt["sg_turs_path"]["default"] = sg_turs

    os.makedirs(directory, mode=0o700, exist_ok=True)
    agent.STORE_PATH = os.path.join(directory, "cluster")
    # sg_persist says whether it is a logical unit; the kernel would not know.
    agent.is_block_device = is_block_device
    agent.define_new_opts = define_new_opts


def main() -> None:
    """Run the agent; it ends the process."""
    path, directory, sg_persist, sg_turs, *options = sys.argv[1:]
    sys.argv = [path, *options]
    agent: Any = load(path)
    prepare(agent, directory, sg_persist, sg_turs)
    agent.main()


if __name__ == "__main__":
    main()

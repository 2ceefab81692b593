"""The process of one job of a study: `dibs-rl train`, which ends in good order when whatever started it has died.

python -m dibs_rl.cli.job PARENT FLAGS...
"""

import ctypes
import os
import signal
import sys

from dibs_rl.cli.main import main

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def tie_to(parent: int) -> None:
    """Lets the kernel send SIGTERM when the parent has died, where it can (Linux): the run saves a checkpoint and ends.

    Args:
        parent: Process id of what started this process.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before that
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    tie_to(int(sys.argv[1]))
    main(["train", *sys.argv[2:]])

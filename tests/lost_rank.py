"""`dibs-rl` in a process that, if it is the second rank, is killed at its n-th step of an optimiser: `lost_rank.py N ...`."""

import os
import signal
import sys

from dibs_rl.agents.clipped_step import ClippedStep
from dibs_rl.cli.main import main

own_step, steps = ClippedStep.along, 0


def step(self, *arguments):
    """Kills the process in the middle of an update, or takes the step."""
    global steps
    steps += 1
    if steps == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    own_step(self, *arguments)


if os.environ["RANK"] == "1":
    ClippedStep.along = step
main(sys.argv[2:])

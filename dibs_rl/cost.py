"""What a training run takes: time on the wall, time of processors, memory."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

_STATUS = Path("/proc/self/status")


class CostMeter:
    """Measures from its making on, and adds to what was measured before.

    Args:
        before: The cost of a run that is resumed here, as `cost` gave it; empty for a new one.
    """

    def __init__(self, before: Mapping[str, float]) -> None:
        self._before = before
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def cost(self, steps: int) -> dict[str, float]:
        """The run's cost so far.

        Args:
            steps: Environment steps of the run in all.

        Returns:
            `seconds` on the wall and `cpu_seconds` of this process with its threads (worker processes of the environments not
            counted), both summed over all resumes; `peak_mib`, the largest resident memory of this process (the largest of all
            resumes); `steps_per_second`.
        """
        seconds = self._before.get("seconds", 0.0) + time.monotonic() - self._wall
        return {
            "seconds": seconds,
            "cpu_seconds": self._before.get("cpu_seconds", 0.0) + time.process_time() - self._cpu,
            "peak_mib": max(self._before.get("peak_mib", 0.0), peak_mib()),
            "steps_per_second": steps / max(seconds, 1e-9),
        }


def peak_mib() -> float:
    """The largest resident memory of this process so far, in MiB.

    Linux keeps in `getrusage` the peak of the process that started this one, where that was larger; hence /proc.
    """
    if _STATUS.is_file():
        kib = next(line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return float(kib) / 2**10
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)

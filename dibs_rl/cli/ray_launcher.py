"""The launcher of a Ray cluster: the same jobs, one processor each, begun again elsewhere where a machine dies.

Every machine reads and writes the study's folder under the same path, so the cluster needs a shared file system; the run
folders, and nothing else, carry what a job has learnt from one machine to another.
"""

import logging
import os
from pathlib import Path
from typing import Any

from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.job_process import State, run_to_the_end
from dibs_rl.errors import UserError
from dibs_rl.run_folder import RunFolder
from dibs_rl.study import Job

_RETRIES = 5  # machines that may die under one job


class RayLauncher:
    """Jobs as tasks of a Ray cluster.

    Args:
        root: The study's folder, on a file system that all machines share.
        address: The cluster's, or `auto` for the one this machine belongs to; one is started here where it is empty.
        slots: Jobs at a time on a cluster that is started here; an existing one has as many as processors.

    Raises:
        UserError: If Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, root: Path, address: str, slots: int) -> None:
        try:
            import ray
        except ImportError:
            raise UserError("The launcher ray needs Ray: pip install 'dibs-rl[cluster]'.") from None
        self._ray: Any = ray
        self._root = root.absolute()
        size: dict[str, Any] = {} if address else {"num_cpus": slots, "include_dashboard": False}
        try:
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **size)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"Cannot reach a Ray cluster at {address or 'local'}: {error}") from None
        self._task = ray.remote(num_cpus=1, max_retries=_RETRIES)(run_to_the_end)
        self._running: dict[Any, Job] = {}

    @property
    def has_room(self) -> bool:
        """Whether Ray has fewer jobs than the cluster has processors now; it has one in any case, for a cluster to grow by."""
        return len(self._running) < max(1, int(self._ray.cluster_resources().get("CPU", 0)))

    def start(self, job: Job) -> None:
        """Hands a job to Ray."""
        self._running[self._task.remote(self._root / job.path, train_flags(job, self._root), os.getcwd())] = job

    def ended(self) -> list[tuple[Job, State]]:
        """The jobs that have ended since the last call, and how."""
        done, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0) if self._running else ([], [])
        return [(self._running[reference], self._state(reference, self._running.pop(reference))) for reference in done]

    def stop(self) -> None:
        """Cancels the tasks, whose processes save what they have learnt and end."""
        for reference in self._running:
            self._ray.cancel(reference)

    def close(self) -> None:
        """Leaves the cluster, and ends one that was started here."""
        self._ray.shutdown()

    def _state(self, reference: Any, job: Job) -> State:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.TaskCancelledError:
            return "stopped"
        except self._ray.exceptions.RayError as error:
            RunFolder(self._root / job.path).write_error(f"Ray gave the job up: {type(error).__name__}", str(error))
            return "failed"

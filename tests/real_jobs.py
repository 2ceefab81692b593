"""Jobs of studies that really train: the commands that start them, in this process and in others."""

import subprocess
import sys
import time

import pytest

from dibs_rl.cli.job_flags import train_flags
from dibs_rl.cli.main import main
from dibs_rl.run_folder import RunFolder


def command(*arguments):
    """Runs `dibs-rl` in this process and returns its exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code or 0


def start(*arguments):
    """Starts `dibs-rl` in a process of its own, as a shell would."""
    words = [sys.executable, "-m", "dibs_rl", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(condition, process=None):
    for _ in range(2400):
        if condition():
            return
        assert process is None or process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    raise AssertionError("it did not happen within two minutes")


def learning(folder):
    """Whether a run has begun to learn."""
    return lambda: (folder / "progress.csv").is_file() and (folder / "progress.csv").stat().st_size > 1000


class InThisProcess:
    """A launcher that trains at once, going on where a run is there, or fails where it is told to."""

    has_room = True

    def __init__(self, root, broken=()):
        self.root, self.broken, self.just_ended, self.started = root, broken, [], []

    def start(self, job):
        self.started.append(job.arm)
        if job.arm not in self.broken:
            folder = RunFolder(self.root / job.path)
            flags = ["--resume", folder.path] if folder.config_file.is_file() else train_flags(job, self.root)
            assert command("train", *flags) == 0
        self.just_ended.append((job, "failed" if job.arm in self.broken else "done"))

    def ended(self):
        ended, self.just_ended = self.just_ended, []
        return ended

    def close(self):
        pass

"""Saving without ever leaving a broken file behind a good name, and the generators' states along with it."""

import io
import pathlib
import random
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from dibs_rl.files import atomic_write


class Persistent(BaseAlgorithm):
    """Mixin for SB3 learners: `save` is atomic, and `load` goes on with the random numbers where `save` stopped."""

    _rng_state: dict[str, Any] | None = None

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Saves as SB3 does, but a path only ever names a whole file: it is written beside it and renamed."""
        self._rng_state = _capture_rng()
        if isinstance(path, io.BufferedIOBase):
            super().save(path, exclude, include)
            return
        path = pathlib.Path(path)
        with atomic_write(path if path.suffix else path.with_name(f"{path.name}.zip")) as file:
            super().save(file, exclude, include)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> Self:
        """Loads as SB3 does, and sets Python's, numpy's and torch's generators to where they were."""
        model = super().load(path, *args, **kwargs)
        if model._rng_state is not None:
            _restore_rng(model._rng_state)
        return model


def _capture_rng() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])

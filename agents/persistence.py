"""Saving without ever leaving a broken file behind a good name, and the generators' states along with it; and going back."""

import copy
import io
import pathlib
import random
from collections import deque
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Aggregator

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


class Snapshot:
    """All that a file of a learner holds and that a rollout or an update changes, as it is now.

    The copies are made where the tensors are, and nobody waits for a GPU.

    Args:
        model: One that learns from whole rollouts.
    """

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self._model = model
        left_out = set(model._excluded_save_params())
        held = {name: value for name, value in vars(model).items() if name not in left_out}
        # Of the rest, learning changes no object in place: it puts another one there.
        self._memories = {name: copy.deepcopy(value.__getstate__()) for name, value in held.items() if _remembers(value)}
        self._held = {name: copy.copy(value) if isinstance(value, deque) else value for name, value in held.items()}
        self._parameters = _cloned(model.get_parameters())
        self._rng_state = _capture_rng()

    def put_back(self) -> None:
        """Makes the learner what it was, once; its worlds are where they are."""
        vars(self._model).update(self._held)
        for name, memory in self._memories.items():
            vars(getattr(self._model, name)).update(memory)
        self._model.set_parameters(self._parameters)
        _restore_rng(self._rng_state)


def _remembers(value: Any) -> bool:
    """Whether it is changed by what it sees: statistics of observations, or a combiner that starts from its last weights."""
    if isinstance(value, Aggregator):
        return any(isinstance(part, Stateful) for part in value.modules())
    return isinstance(value, VecNormalize)


def _cloned(part: Any) -> Any:
    """A state dictionary with tensors of its own."""
    if isinstance(part, dict):
        return {key: _cloned(value) for key, value in part.items()}
    return part.clone() if isinstance(part, Tensor) else part


def _capture_rng() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore_rng(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])

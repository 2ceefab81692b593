"""What a task is that needs no simulator: its state is a few tensors, and torch moves it on."""

from abc import abstractmethod
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from dibs_rl.envs.tasks import Rules, UniformNoise

Model = TypeVar("Model")
State = TypeVar("State")


class WorldNoise(UniformNoise, Protocol):
    """Random numbers of k worlds, of which some may draw and others not."""

    def worlds(self, which: Tensor) -> UniformNoise:
        """The same streams of some of the k worlds, by their numbers."""


class TorchTask(Rules[Model, State]):
    """One of MO-Gymnasium's environments as functions of tensors; a state is a NamedTuple of tensors `[n, ...]`.

    Attributes:
        many_worlds: From how many worlds on a step is quicker than those of the environments one by one, on one core.
    """

    many_worlds: int = 64

    @abstractmethod
    def model(self, env: Any, device: torch.device) -> Model:
        """What is constant, read off one of MO-Gymnasium's environments (unwrapped)."""

    @abstractmethod
    def start(self, model: Model, noise: UniformNoise) -> State:
        """States that k episodes start from; noise is that of their worlds."""

    @abstractmethod
    def advance(self, model: Model, state: State, actions: Tensor, noise: WorldNoise) -> State:
        """States after a step with actions `[n, ...]`; noise is that of the n worlds."""

"""What SB3's callbacks expect of a step, made when it is looked at: on a GPU a look waits, and mostly nobody looks."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from dibs_rl import sync


class LazyInfos(Sequence):
    """SB3's `infos` of a step: a dictionary for each episode that ended, and for other worlds an empty one when asked for.

    Args:
        num_envs: Worlds n.
        find: Gives the infos of the worlds whose episode ended.
    """

    def __init__(self, num_envs: int, find: Callable[[], dict[int, dict[str, Any]]]) -> None:
        self._num_envs, self._find = num_envs, find

    @cached_property
    def _of_ended(self) -> dict[int, dict[str, Any]]:
        return self._find()

    def __len__(self) -> int:
        return self._num_envs

    def __getitem__(self, index: Any) -> Any:
        worlds = range(self._num_envs)[index]
        if isinstance(worlds, range):
            return [self._of_ended.get(i, {}) for i in worlds]
        return self._of_ended.get(worlds, {})


class LazyArray(np.lib.mixins.NDArrayOperatorsMixin):
    """A tensor of a GPU for whoever expects a NumPy array: it is brought over when somebody looks at it."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @cached_property
    def _array(self) -> np.ndarray:
        return self._tensor.cpu().numpy()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._array, dtype=dtype, copy=copy)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        return getattr(ufunc, method)(*(np.asarray(part) if part is self else part for part in inputs), **kwargs)

    def __len__(self) -> int:
        return len(self._tensor)

    def __bool__(self) -> bool:
        return bool(self._array)

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array, name)


def as_array(tensor: Tensor) -> Any:
    """A tensor as a NumPy array, at once where that costs nothing, and else when it is looked at."""
    return LazyArray(tensor) if sync.waits(tensor.device) else tensor.numpy()

"""NumPy's default generator in torch: a stream for each world, all of them advanced at once, on any device.

PCG-64 (O'Neill, "PCG: a family of simple fast space-efficient statistically good algorithms for random number generation",
2014) is a linear congruential generator of 128 bits: here four limbs of 32 bits in int64 tensors, so that worlds which draw
numbers need neither Python nor the host. What is drawn equals `np.random.Generator(np.random.PCG64(...))` bit for bit.
"""

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_LIMBS = 4
_LOW = 0xFFFFFFFF  # a limb's 32 bits


class Streams:
    """A stream of uniform numbers for each of n worlds.

    Args:
        num_envs: Worlds n; their streams begin anywhere, until they are seeded.
        device: Where numbers are drawn.
    """

    def __init__(self, num_envs: int, device: torch.device | str = "cpu") -> None:
        words = np.random.SeedSequence().generate_state(2 * _LIMBS * num_envs, np.uint32).astype(np.int64)
        self._state, self._increment = torch.from_numpy(words).view(2, num_envs, _LIMBS).to(device).unbind()
        self._increment[:, 0] |= 1  # odd, or the period is shorter
        self._worlds = torch.arange(num_envs, device=device)
        multiplier = _limbs(_MULTIPLIER)
        # [i, k]: what limb i of the state is multiplied by in limb k of the product; what overflows 128 bits is dropped.
        table = [[multiplier[k - i] if k >= i else 0 for k in range(_LIMBS)] for i in range(_LIMBS)]
        self._multiplier = torch.tensor(table, device=device)

    def __len__(self) -> int:
        return len(self._worlds)

    def seed(self, world: int, seed: int) -> None:
        """Begins a world's stream as Gymnasium's generator of this seed does."""
        generator, _ = gym.utils.seeding.np_random(seed)
        state = generator.bit_generator.state["state"]
        for stored, key in ((self._state, "state"), (self._increment, "inc")):
            stored[world] = torch.tensor(_limbs(state[key]), device=stored.device)

    def worlds(self, which: Tensor) -> "Streams":
        """The same streams of some of the worlds, by their numbers or by a mask."""
        some = object.__new__(Streams)
        some.__dict__.update(self.__dict__)
        some._worlds = self._worlds[which]
        return some

    def uniform(self, low: float, high: float, size: int) -> Tensor:
        """The next numbers of each world, in [low, high): `[k, size]`, float64."""
        return low + (high - low) * torch.stack([self._next() for _ in range(size)], dim=1)

    def _next(self) -> Tensor:
        """The next number of each world in [0, 1), `[k]`: the 53 upper bits of PCG's XSL-RR output."""
        one, two, three, four = self._advance().unbind(dim=1)
        word = ((four ^ two) << 32) | (three ^ one)
        by = four >> 26  # the state's upper six bits
        # Rotated right; shifts of negative numbers copy the sign, and a shift by 64 bits is none.
        right = (word >> by) & ~((torch.full_like(word, -1) << 1) << (63 - by))
        rotated = right | ((word << 1) << (63 - by))
        return ((rotated >> 11) & ((1 << 53) - 1)).double() * 2.0**-53

    def _advance(self) -> Tensor:
        """Multiplies the state and adds the increment, modulo 2^128: limbs `[k, 4]`, the lowest first."""
        products = self._state[self._worlds].unsqueeze(2) * self._multiplier
        limbs = (products & _LOW).sum(dim=1) + self._increment[self._worlds]
        limbs[:, 1:] += ((products >> 32) & _LOW).sum(dim=1)[:, :-1]
        for k in range(1, _LIMBS):
            limbs[:, k] += limbs[:, k - 1] >> 32
        limbs &= _LOW
        self._state[self._worlds] = limbs
        return limbs


def _limbs(number: int) -> list[int]:
    """A number of 128 bits as limbs, the lowest first."""
    return [(number >> (32 * k)) & _LOW for k in range(_LIMBS)]

"""What holds for every test."""

import hypothesis
import torch

# The tests' networks are tiny: a second thread would only wait for the first, and tests that want more ask for it.
torch.set_num_threads(1)

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("dibs-rl", deadline=None)
hypothesis.settings.load_profile("dibs-rl")

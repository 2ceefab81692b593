"""What holds for every test."""

import torch

# The tests' networks are tiny: a second thread would only wait for the first, and tests that want more ask for it.
torch.set_num_threads(1)

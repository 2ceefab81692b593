"""DiBS on an ordinary multi-task network: two tasks share a trunk, and one loss is replaced by a transform of itself.

    pip install scikit-learn
    python examples/supervised.py --out supervised.png

Scikit-learn's 1,797 images of digits. From eight numbers that the trunk makes of an image, one head tells the digit (cross
entropy) and one draws the image again (squared error). Then the squared error is replaced by its logarithm or by its fourth
power, which rank all networks as it does.

What is bargained. Both losses reach the trunk, so there its gradients are combined: three lines in `dibs_backward`. A head is
reached by its own loss alone and has nothing to bargain, but the length of its gradient must not matter either. DiBS of one
objective is its unit gradient, so the same lines serve.

What to see. With DiBS nothing changes: the same trajectory to rounding, the same test scores. What the sum comes to is decided
by the shape of one loss: with the fourth power three digits in ten are told wrong, as it is one in eight, with the logarithm
one in thirty. (That last sum draws better images than DiBS, which goes on listening to the digits when almost all are right.)
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dibs_rl import DiBS, objective_jacobian, write_gradient

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda loss: loss,
    "its logarithm": torch.log,
    "its fourth power": lambda loss: loss**4,
}


class Data(NamedTuple):
    """Images `[n, 64]` with values 0 to 16, and the digits `[n]` that they show."""

    train_images: Tensor
    test_images: Tensor
    train_digits: Tensor
    test_digits: Tensor


def load_data() -> Data:
    """Draws a quarter of scikit-learn's digits for testing."""
    images, digits = load_digits(return_X_y=True)
    return Data(*(torch.as_tensor(part) for part in train_test_split(images, digits, random_state=0)))


class Network(nn.Module):
    """A trunk that makes eight numbers of an image, and a head for each task."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8), nn.Tanh())
        self.heads = nn.ModuleList([nn.Linear(8, 10), nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64))])
        self.double()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images `[n, 64]` to each digit's logit `[n, 10]` and the images again `[n, 64]`."""
        code = self.trunk(images / 16)
        return self.heads[0](code), 16 * self.heads[1](code)


def dibs_backward(network: Network, losses: Tensor) -> None:
    """Writes what DiBS makes of the losses `[2]` into `.grad`."""
    trunk = list(network.trunk.parameters())
    jacobian = objective_jacobian(losses, trunk, retain_graph=True)
    write_gradient(trunk, DiBS()(jacobian))
    for head, loss in zip(network.heads, losses, strict=True):
        own = list(head.parameters())
        write_gradient(own, DiBS()(objective_jacobian(loss, own, retain_graph=True)))


def sum_backward(network: Network, losses: Tensor) -> None:
    """The usual way."""
    network.zero_grad()
    losses.sum().backward()


METHODS = {"DiBS": dibs_backward, "sum": sum_backward}


def train(method: str, transform: str, data: Data, steps: int = 300) -> tuple[Network, Tensor]:
    """Trains a network on all training images at once.

    Returns:
        The network, and along the way its accuracy and its root mean square error on the test images, `[steps, 2]`.
    """
    network, scores = Network(), []
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        logits, images = network(data.train_images)
        image_loss = (images - data.train_images).square().mean()
        losses = torch.stack([cross_entropy(logits, data.train_digits), TRANSFORMS[transform](image_loss)])
        METHODS[method](network, losses)
        optimizer.step()
        schedule.step()
        scores.append(score(network, data))
    return network, torch.stack(scores)


@torch.no_grad()
def score(network: Network, data: Data) -> Tensor:
    """Accuracy, and root mean square error of the images, on the test images."""
    logits, images = network(data.test_images)
    accuracy = (logits.argmax(dim=1) == data.test_digits).double().mean()
    return torch.stack([accuracy, (images - data.test_images).square().mean().sqrt()])


def picture(curves: dict[tuple[str, str], Tensor], path: Path) -> None:
    """Draws both test scores of every run."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    shades = {"DiBS": ("#9ecae1", "#3182bd", "#08306b"), "sum": ("#fdbe85", "#fd8d3c", "#a63603")}
    widths = {"DiBS": (7, 3.5, 1), "sum": (1.5, 1.5, 1.5)}  # lines that lie on each other are to be seen
    for number, ((method, transform), scores) in enumerate(curves.items()):
        style = {"color": shades[method][number % 3], "linewidth": widths[method][number % 3]}
        for axis, column in zip(axes, scores.T, strict=True):
            axis.plot(column, **style, label=f"{method}, {transform}")
    axes[0].set(title="digits told right, test images", xlabel="steps", ylabel="share", ylim=(0, 1))
    axes[1].set(title="error of the drawn images, test images", xlabel="steps", ylabel="root mean square, grey levels of 16")
    axes[1].legend(title="the image's squared error", fontsize=9)
    figure.savefig(path, dpi=75)
    plt.close(figure)


def main() -> None:
    """Trains with both methods and all transforms, prints the test scores and draws them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("supervised.png"))
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a second thread waits longer than it helps on a network this small
    data, curves = load_data(), {}
    print("method  image's squared error  digits right  image error  farthest from the run with the loss as it is")
    for method in METHODS:
        for transform in TRANSFORMS:
            _, scores = train(method, transform, data, arguments.steps)
            curves[method, transform] = scores
            away = (scores - curves[method, "as it is"]).abs().max()
            right, error = scores[-1].tolist()
            print(f"{method:7s} {transform:22s} {right:<13.3f} {error:<12.3f} {away:.1e}", flush=True)
    picture(curves, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()

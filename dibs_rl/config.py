"""What a run is: its settings, with the bounds that `dibs_rl.validation` holds them against.

Each field's docstring is its help text on the command line.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

BY_OBJECTIVE = ("preference", "transform", "reward_terms")  # fields that YAML may hold as a mapping
OF_TASK = ("reward_terms", "pad_tasks")  # fields that change the task which an environment's id stands for

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Number = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Algorithm = Literal["ppo", "a2c", "sac", "sb3-ppo"]


def _temperature(text: str) -> str:
    if not re.fullmatch(r"(auto(_\d+(\.\d+)?)?|\d+(\.\d+)?(e-?\d+)?)", text):
        raise ValueError("it is a number of 0 or more, auto, or auto_0.1 to start at 0.1")
    return text


@dataclass
class RunConfig:
    """Settings of a training run, whatever the algorithm."""

    env: str = "mo-halfcheetah"
    """Environment id; of a bare name the newest version is taken. Several tasks with an objective each: a+b+c."""
    pad_tasks: bool = False
    """Of several tasks, fill shorter observations up with zeros, and let actions of different sizes fit."""
    reward_terms: str = ""
    """A vector reward of parts of a scalar one, by their keys in info: forward=reward_forward,energy=-cost."""
    algo: Algorithm = "ppo"
    """Learning algorithm: ppo, a2c, sac, or sb3-ppo, Stable-Baselines3's own PPO on the weighted sum of the rewards."""
    combiner: str = "dibs"
    """How the objectives' gradients become one: dibs, norm-sum, weighted-sum, or one of TorchJD's (mgda, pcgrad, ...)."""
    preference: str = ""
    """Positive weights on the objectives, in order or by name: 3,1 or forward=3,energy=1. Equal if not given."""
    anchors: str = ""
    """For DiBS's anchored game: the folder of the experts, or auto for those of this environment, which are trained first,
    with the steps that are shipped for it; 'dibs-rl experts' trains them with others."""
    start_from: str = ""
    """Folder of a run whose networks the training begins with, all statistics included. Steps begin at 0, optimisers anew."""
    transform: str = ""
    """Rewards in other units, for the learner alone: energy=1e3 (0: no say); power4, exp or sqrt; @episode: on returns."""
    bargaining_steps: Count = 5
    """Steps T of the DiBS game; 1 is the mean of the unit gradients."""
    bargain_every: Literal["rollout", "epoch", "minibatch"] = "epoch"
    """How often the gradients are combined anew."""
    steps: Number = 1_000_000
    """Environment steps in all, rounded up to whole rollouts; with 0 the untrained policy is kept."""
    seed: Seed = 0
    """Seed of everything that is random; world i is seeded with seed + i."""
    num_envs: Count = 64
    """Worlds stepped together."""
    workers: Number = 0
    """Worker processes of the gym backend (0: this process), or threads of the batch backend (0: one a core)."""
    backend: str = "auto"
    """What steps the worlds: batch (MuJoCo tasks all at once), torch (some small ones), warp (MuJoCo tasks on the device), gym
    (one by one), or auto: warp where it is installed and a CUDA device is named, else the quickest with the results of gym."""
    device: str = "auto"
    """Where networks and tensors live: cpu, cuda, or auto (cuda for images or --backend warp where there is one, else cpu)."""
    threads: Count = 2
    """Threads of an update: two let the critic learn beside the policy where that helps, with the same results."""
    out: Path | None = None
    """Run folder; runs/<env>/<algo>-<combiner>-seed<seed> if not given, with a number behind it where that exists."""
    config: Path | None = None
    """YAML file with settings; flags win over it. Without it, the settings shipped for the environment are taken."""
    resume: Path | None = None
    """Run folder to go on with, from its newest checkpoint."""
    checkpoint_every: Count = 100_000
    """Environment steps between checkpoints."""
    eval_episodes: Number = 20
    """Episodes of the evaluation at the end; 0 for none."""
    eval_stochastic: bool = False
    """Sample actions in the evaluation at the end instead of taking the most likely one."""
    eval_gamma: Fraction | None = None
    """Discount of the discounted returns in the evaluation; that of the training if not given."""
    study: str = ""
    """What a study calls this run: condition=scale-1,arm=dibs. Kept in the run's config.yaml."""
    learning_rate: Positive = 3e-4
    """Step size of the optimisers."""
    schedule: Literal["constant", "linear"] = "constant"
    """How the learning rate goes on: constant, or linearly to 0."""
    gamma: Fraction = 0.99
    """Discount factor."""
    hidden: tuple[Count, ...] = (64, 64)
    """Widths of the hidden layers, of policy and critic each."""
    activation: Literal["tanh", "relu", "elu"] = "tanh"
    """Activation of the hidden layers."""
    popart: bool = True
    """Let each critic head learn in its own units (PopArt)."""


@dataclass
class OnPolicyConfig(RunConfig):
    """Settings of the learners that learn from a rollout once."""

    n_steps: Count = 64
    """Steps of each world in a rollout."""
    gae_lambda: Fraction = 0.95
    """GAE's trade-off between bias (0) and variance (1)."""
    fading: bool = False
    """Let an objective's weight fade while its advantages vary less than they used to in this training."""
    ent_coef: NotNegative = 0.0
    """Entropy bonus, relative to a combined gradient of norm at most 1 (longer with --fading); added after combining."""
    max_grad_norm: Positive = 0.5
    """Largest norm of the policy's combined gradient, and, apart from it, of the critic's."""
    log_std_init: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Initial log standard deviation of continuous actions."""
    start_log_std_min: Annotated[float, Field(allow_inf_nan=False)] = -2.0
    """Lower bound of the log standard deviations that a training begins with where the networks are another run's."""
    normalize_obs: bool = True
    """Centre and scale observations by their running statistics."""


@dataclass
class PPOConfig(OnPolicyConfig):
    """Train one policy on many rewards with PPO, without reward weights."""

    batch_size: Annotated[int, Field(ge=2)] = 512
    """Samples in a minibatch."""
    n_epochs: Count = 10
    """Passes over a rollout."""
    clip_range: Positive = 0.2
    """Half-width of PPO's interval around probability ratio 1."""
    target_kl: Positive | None = None
    """Ends an update once the policy has moved this far; none for no limit."""


@dataclass
class A2CConfig(OnPolicyConfig):
    """Train one policy on many rewards with A2C, without reward weights."""

    algo: Algorithm = "a2c"
    """Learning algorithm."""
    bargain_every: Literal["minibatch"] = "minibatch"
    """Gradients are combined at each of A2C's steps."""
    num_envs: Count = 16
    """Worlds stepped together."""
    learning_rate: Positive = 7e-4
    """Step size of the optimisers."""
    n_steps: Count = 5
    """Steps of each world in a rollout."""
    gae_lambda: Fraction = 1.0
    """GAE's trade-off between bias (0) and variance (1)."""
    normalize_advantage: bool = True
    """Centre and scale each objective's advantages over the rollout."""
    use_rms_prop: bool = True
    """RMSprop, as in the A2C of the paper; Adam if not."""


@dataclass
class SACConfig(RunConfig):
    """Train one policy with continuous actions on many rewards with SAC, without reward weights."""

    algo: Algorithm = "sac"
    """Learning algorithm."""
    bargain_every: Literal["minibatch"] = "minibatch"
    """Gradients are combined at each of SAC's steps."""
    num_envs: Count = 8
    """Worlds stepped together."""
    hidden: tuple[Count, ...] = (256, 256)
    """Widths of the hidden layers, of policy and critic each."""
    activation: Literal["tanh", "relu", "elu"] = "relu"
    """Activation of the hidden layers."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Samples in a minibatch."""
    update_ratio: Positive = 1.0
    """Gradient steps for each environment step, however many worlds there are; about, since both come in whole numbers."""
    buffer_size: Count = 1_000_000
    """Transitions that the replay buffer holds."""
    learning_starts: Number = 5_000
    """Environment steps with random actions before the first update."""
    tau: Fraction = 0.005
    """Share of the critic that goes into its target at each gradient step."""
    ent_coef: Annotated[str, AfterValidator(_temperature)] = "auto_0.1"
    """Temperature of the entropy, relative to a combined gradient of norm at most 1: a number, or auto_0.1 to start there and
    be tuned for a target entropy. SB3's start of 1 is of rewards' size; beside a unit it would drown the rewards for long."""
    target_entropy: Literal["auto"] | Annotated[float, Field(allow_inf_nan=False)] = "auto"
    """Entropy of the policy that the temperature is tuned for; auto for minus the number of action entries."""
    save_replay_buffer: bool = False
    """Keep the replay buffer beside the newest checkpoint, for --resume."""


@dataclass
class SB3PPOConfig(PPOConfig):
    """Train Stable-Baselines3's own PPO on the weighted sum of the rewards. Settings of bargaining and PopArt mean nothing."""

    algo: Algorithm = "sb3-ppo"
    combiner: Literal["weighted-sum"] = "weighted-sum"
    """The rewards are added up; `preference` weighs them."""


ALGORITHMS: dict[str, type[RunConfig]] = {"ppo": PPOConfig, "a2c": A2CConfig, "sac": SACConfig, "sb3-ppo": SB3PPOConfig}

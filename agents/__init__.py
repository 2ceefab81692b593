"""Learners in the manner of Stable-Baselines3, for many rewards."""

from dibs_rl.agents.a2c import DiBSA2C
from dibs_rl.agents.callbacks import MOEvalCallback
from dibs_rl.agents.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, VectorCritic
from dibs_rl.agents.ppo import DiBSPPO
from dibs_rl.agents.sac import DiBSSAC
from dibs_rl.agents.sb3_ppo import SB3PPO

__all__ = [
    "SB3PPO",
    "CnnPolicy",
    "DiBSA2C",
    "DiBSPPO",
    "DiBSSAC",
    "MOEvalCallback",
    "MlpPolicy",
    "MultiInputPolicy",
    "VectorCritic",
]

"""Discrete actions: a cart that mines two ores (sparse) and burns fuel (always), without any weights between them.

The best model is kept by the hypervolume over a reference point: more of each ore than none, for less fuel than the point's.
"""

from dibs_rl.agents import DiBSPPO, MOEvalCallback
from dibs_rl.envs import make
from dibs_rl.selection import hypervolume


def main(steps=1_000_000, worlds=16, eval_freq=2_000, episodes=20, folder="runs/minecart", **kwargs):
    env = make("minecart-v0", num_envs=worlds, seed=0)
    callback = MOEvalCallback(
        make("minecart-v0", num_envs=min(worlds, episodes), seed=10_000),
        hypervolume({"ore_1": -0.01, "ore_2": -0.01, "fuel": -400.0}),
        eval_freq=eval_freq,
        n_eval_episodes=episodes,
        best_model_save_path=folder,
        log_path=folder,
        deterministic=False,
        verbose=0,
    )
    model = DiBSPPO("MlpPolicy", env, seed=0, ent_coef=0.01, device="cpu", **kwargs).learn(steps, callback=callback)
    return model, callback


if __name__ == "__main__":
    _, found = main()
    for step, played in found.evaluations:
        means = zip(played.objectives, played.returns.mean(axis=0), strict=True)
        print(step, ", ".join(f"{name} {value:.2f}" for name, value in means))

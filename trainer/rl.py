"""KL-regularised policy gradient on groups that the pipeline sampled and labelled from the policy: the third step of RLHF.

One call is one round: a pass over the groups, whose samples get staler with every optimizer step (the clipped ratio bounds by how
much). The next round samples from the policy that this one saved. Legend: B completions of a micro-batch, G its groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.batches import micro_batches, shuffled, steps_by_count
from trainer.command import Objectives, carry_out
from trainer.config import RlOptions
from trainer.errors import TrainerError
from trainer.groups import Group, GroupSet, group_files, read_groups, tell
from trainer.identity import fingerprint
from trainer.logps import logps_of, shapes_for
from trainer.model import Loaded, load, micro_batch_budget, model_hash
from trainer.policy_gradient import (
    advantages,
    clipped_losses,
    group_sums,
    kl_estimates,
    shaped_rewards,
    truncated_weights,
)
from trainer.ranks import Ranks
from trainer.reference import Drift, check_drift, load_frozen
from trainer.runlog import say
from trainer.sharding import Turns, turns
from trainer.start import prepare_out
from trainer.train import Outcome
from trainer.watchdog import kl_limit, listed

Logps = dict[str, float]  # completion id -> nats, at the temperature of sampling
NAN = float("nan")


@dataclass(frozen=True)
class Known:
    """What was known before the first step: the policy's own log-probs, the reference's, and the sampler's where they apply."""

    old: Logps
    reference: Logps
    sampler: Logps


class RlObjective:
    """loss = mean over groups of the mean over their completions of the clipped policy-gradient loss (policy_gradient.py)."""

    metrics = (
        "reward", "shaped_reward", "reward_spread", "kl", "ratio", "clipped", "ended", "completion_tokens",
    )  # fmt: skip

    def __init__(self, found: GroupSet, known: Known, loaded: Loaded, options: RlOptions) -> None:
        self.groups = found.groups
        self.temperature = found.temperature
        self.ids = [group.name for group in found.groups]
        self.shapes = [group.tree.shape for group in found.groups]
        self.lengths = [group.n_tokens for group in found.groups]
        self.weights = [1.0] * len(found.groups)
        self.known = known
        self.options = options
        self.device = loaded.device
        self.limits = (kl_limit(options.kl_limit, hint="lower --lr, raise --beta, or sample again"),)

    def steps(self, epoch: int) -> Iterator[list[int]]:
        return steps_by_count(shuffled(self.ids, self.options.seed, epoch), self.options.batch_prompts)

    def begin(self, model: Any, parts: Turns, ranks: Ranks) -> None:
        """Nothing: each item's loss is its own."""

    def outcome(self, model: Any, items: Sequence[int]) -> Outcome:
        groups = [self.groups[i] for i in items]
        logp_B = policy_logps(model, groups, self.temperature, self.options.head_mib << 20, self.device)
        old_B, ref_B, mu_B, reward_B, ended_B, tokens_B = self.columns(groups, logp_B)
        group_B = torch.tensor([g for g, group in enumerate(groups) for _ in group.samples], device=self.device)
        options = self.options
        shaped_B = shaped_rewards(reward_B, ended_B, logp_B, ref_B, options.beta, options.missing_end)
        advantage_B = advantages(shaped_B, group_B, len(groups), options.advantage)
        weight_B = truncated_weights(old_B, mu_B, options.importance_cap)
        loss_B = clipped_losses(logp_B, old_B, advantage_B, weight_B, options.clip)
        ratio_B = (logp_B.detach() - old_B).exp()
        spread_B = advantages(reward_B, group_B, len(groups), "rloo") ** 2
        columns = [
            *(reward_B, shaped_B, spread_B, kl_estimates(logp_B, old_B, ref_B), ratio_B),
            *(((ratio_B - 1).abs() > options.clip).float(), ended_B, tokens_B),
        ]
        count_G = group_sums(torch.ones_like(loss_B), group_B, len(groups))
        means_GM = torch.stack([group_sums(c, group_B, len(groups)) / count_G for c in columns], dim=1)
        losses_G = group_sums(loss_B, group_B, len(groups)) / count_G
        return Outcome(losses_G.sum(), losses_G.detach(), means_GM)

    def columns(self, groups: Sequence[Group], like: Tensor) -> tuple[Tensor, ...]:
        """What is known of each completion: old, ref and mu log-probs, reward, whether it ended, tokens. Shapes: six of (B,)."""
        samples = [sample for group in groups for sample in group.samples]
        known = self.known
        rows = [
            (
                known.old[s.name],
                known.reference[s.name],
                known.sampler.get(s.name, NAN),
                s.reward,
                float(s.ended),
                len(s.ids),
            )
            for s in samples
        ]
        return tuple(like.new_tensor(rows).unbind(1))

    def numbers(self, means: dict[str, float], n_items: int, seconds: float) -> dict[str, float]:
        per_token = {"kl_per_token": means["kl"] / means["completion_tokens"]}
        return {**means, **per_token, "prompts_per_s": n_items / seconds}


def policy_logps(
    model: Any, groups: Sequence[Group], temperature: float, head_bytes: int, device: torch.device
) -> Tensor:
    """The model's log-prob of every completion of the groups, in order, at a temperature. Shapes: -> (B,)."""
    return logps_of(model, [group.tree for group in groups], device, head_bytes, temperature)


@torch.no_grad()
def score_groups(loaded: Loaded, found: GroupSet, options: RlOptions, ranks: Ranks) -> Logps:
    """The model's log-prob of every completion, at the temperature of sampling.

    Raises:
        TrainerError: one is not finite.
    """
    groups, shapes = found.groups, shapes_for(loaded.model, [group.tree.shape for group in found.groups])
    budget = micro_batch_budget(options.micro_batch_tokens, loaded.device)
    parts = micro_batches(range(len(groups)), shapes, budget)
    own: Logps = {}
    for part, _ in turns(loaded.model, parts, shapes, ranks):
        some = [groups[i] for i in part]
        logp_B = policy_logps(loaded.model, some, found.temperature, options.head_mib << 20, loaded.device)
        names = [sample.name for group in some for sample in group.samples]
        own |= dict(zip(names, logp_B.tolist(), strict=True))
    everything = {name: value for share in ranks.gather(own) for name, value in share.items()}
    bad = sorted(name for name, value in everything.items() if not math.isfinite(value))
    if bad:
        raise TrainerError(f"the log-prob of completions {listed(bad)} is not finite; hint: is the model whole?")
    return everything


def sampled_logps(found: GroupSet) -> Logps:
    """The sampler's own log-probs where they are of the distribution that it drew from: stored ones are at temperature 1."""
    if found.temperature != 1:
        say(
            f"sampled at temperature {found.temperature:g}, so the stored log-probs (of temperature 1) are not the sampler's "
            "probabilities: no importance weights"
        )
        return {}
    return {s.name: s.logp for group in found.groups for s in group.samples if s.logp is not None}


def before_first_step(loaded: Loaded, found: GroupSet, options: RlOptions, ranks: Ranks) -> Known:
    """The log-probs that stay as they are while the policy changes.

    Raises:
        TrainerError: policy and sampler disagree about the policy's own samples.
    """
    old, sampler = score_groups(loaded, found, options, ranks), sampled_logps(found)
    if sampler and not found.n_other_model:
        gaps = [
            (abs(old[s.name] - sampler[s.name]), len(s.ids))
            for g in found.groups
            for s in g.samples
            if s.name in sampler
        ]
        gap = Drift(math.fsum(gap / n for gap, n in gaps) / len(gaps), max(gap for gap, _ in gaps), len(gaps))
        check_drift("policy against sampler at step 0", gap, options.drift_limit)
    if not options.reference_model:
        return Known(old, old, sampler)
    reference = load_frozen(options.reference_model, options, loaded)
    return Known(old, score_groups(reference, found, options, ranks), sampler)


def run(options: RlOptions) -> dict[str, Any]:
    """`python -m trainer rl`."""
    completions, labels = group_files(options)
    prepare_out(options)
    loaded = load(options)
    found = read_groups(completions, labels, loaded, options.max_length, rank=options.scores == "rank")
    tell(found, ", ".join(options.data))
    reference = model_hash(options.reference_model) if options.reference_model else None
    identity = fingerprint(options, data=found.data_hash, reference_model=reference, **loaded.hashes)

    def objectives(ranks: Ranks) -> Objectives:
        return RlObjective(found, before_first_step(loaded, found, options, ranks), loaded, options), None

    return carry_out(loaded, options, identity, objectives, found.refused)

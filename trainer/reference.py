"""The reference's log-probabilities: computed once and cached, or the sampler's own. The training step never runs a reference.

Legend: B pairs of a micro-batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from trainer.attention_choice import prepare
from trainer.batches import micro_batches
from trainer.checkpoint import flush
from trainer.errors import TrainerError, UsageError
from trainer.identity import config_hash
from trainer.logps import logps_of, shapes_for
from trainer.model import Loaded, cast_parameters, load, micro_batch_budget
from trainer.options import ModelOptions, ReferenceOptions, TrainOptions
from trainer.pairs import Pair, PairSet
from trainer.ranks import Ranks
from trainer.runlog import say
from trainer.sharding import turns

Logps = dict[str, tuple[float, float]]  # pair_id -> (chosen, rejected), nats
EXACT = 1e-4  # nats a token: float32 log-probs of one model differ by rounding only (measured 1e-6)


@dataclass(frozen=True)
class Drift:
    """How far two sources of log-probabilities are apart on the same completions, in nats."""

    per_token: float  # mean over completions of |difference| / tokens
    largest: float  # of a whole completion
    n: int

    def __str__(self) -> str:
        return f"{self.per_token:.2g} nats a token, at most {self.largest:.2g} a completion, over {self.n} completions"


def load_frozen(source: str, options: TrainOptions, policy: Loaded) -> Loaded:
    """Another model than the policy, for forward passes alone.

    Raises:
        UsageError: its tokens do not mean the same text.
    """
    shared = {
        field.name: getattr(options, field.name) for field in fields(ModelOptions)
    }  # nothing of adapters or cutting
    loaded = load(ModelOptions(**shared | {"model": source}))
    if loaded.tokenizer_hash != policy.tokenizer_hash:
        raise UsageError(
            f"{source} and {options.model} have different tokenizers; hint: a reference shares its policy's tokenizer"
        )
    cast_parameters(loaded.model.to(loaded.device), loaded.dtype)
    prepare(loaded.model, loaded.device, options.attention)
    return loaded


@torch.no_grad()
def score(loaded: Loaded, pairs: Sequence[Pair], options: ModelOptions, ranks: Ranks) -> Logps:
    """The model's own log-probabilities of the pairs: batches of similar length, dealt to the ranks."""
    shapes = shapes_for(loaded.model, [pair.tree.shape for pair in pairs])
    parts = micro_batches(range(len(pairs)), shapes, micro_batch_budget(options.micro_batch_tokens, loaded.device))
    own: Logps = {}
    mine = turns(loaded.model, parts, shapes, ranks)
    for part, counts in tqdm(mine, desc="log-probs", disable=not ranks.is_first, mininterval=10):
        logps = logps_of(loaded.model, [pairs[i].tree for i in part], loaded.device, options.head_mib << 20)
        for i, (chosen, rejected) in zip(part if counts else (), logps.view(-1, 2).tolist(), strict=counts):
            own[pairs[i].pair_id] = (chosen, rejected)
    everything = {name: value for share in ranks.gather(own) for name, value in share.items()}
    bad = [name for name, value in everything.items() if not all(map(math.isfinite, value))]
    if bad:
        raise TrainerError(
            f"the reference's log-probability is not finite for pairs {', '.join(sorted(bad)[:8])}; hint: is the model whole?"
        )
    return everything


def cache_key(loaded: Loaded, data_hash: str, options: ModelOptions) -> dict[str, str | int | None]:
    """Everything that changes the numbers."""
    return {
        "model_hash": loaded.model_hash,
        "adapter_hash": loaded.adapter_hash,
        "tokenizer_hash": loaded.tokenizer_hash,
        "template_hash": loaded.template_hash,
        "data_hash": data_hash,
        "dtype": str(loaded.dtype),
        "device": loaded.device.type,
        "attention": loaded.model.base_model.config._attn_implementation,
        "max_length": options.max_length,
        "micro_batch_tokens": micro_batch_budget(options.micro_batch_tokens, loaded.device),
        "torch": torch.__version__,
    }


def cache_folder(options: ReferenceOptions) -> Path:
    """`--cache`; else `reference_logps/` beside the dataset folder; else, where that cannot be written, in the output folder."""
    if options.cache:
        return Path(options.cache)
    data = Path(options.data[0])
    if len(options.data) == 1 and data.is_dir() and os.access(data.absolute().parent, os.W_OK):
        return data.absolute().parent / "reference_logps"
    return Path(options.out) / "reference_logps"


def write_logps(path: Path, logps: Logps, key: dict[str, str | int | None]) -> None:
    """A side file of pair_id, logp_chosen, logp_rejected, whole or absent; its metadata holds the key."""
    names = sorted(logps)
    columns = {
        "pair_id": pa.array(names, pa.string()),
        "logp_chosen": pa.array([logps[n][0] for n in names], pa.float64()),
        "logp_rejected": pa.array([logps[n][1] for n in names], pa.float64()),
    }
    table = pa.table(columns).replace_schema_metadata({"reference": json.dumps(key, sort_keys=True)})
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, staged, compression="zstd", write_page_checksum=True)
    flush(staged)
    staged.replace(path)
    flush(path.parent)


def read_logps(path: Path, names: Iterable[str]) -> Logps | None:
    """What `write_logps` wrote; None when the file is absent, damaged, or not of exactly these pairs."""
    try:
        table = pq.read_table(path, page_checksum_verification=True).to_pydict()
    except (OSError, pa.ArrowException):
        return None
    values = zip(table["logp_chosen"], table["logp_rejected"], strict=True)
    logps = dict(zip(table["pair_id"], values, strict=True))
    return logps if set(logps) == set(names) else None


def computed(loaded: Loaded, found: PairSet, options: ReferenceOptions, ranks: Ranks) -> Logps:
    """From the cache when it has these very numbers; else one pass of the model, then cached."""
    key = cache_key(loaded, found.data_hash, options)
    path = cache_folder(options) / f"{config_hash(key)}.parquet"
    cached = read_logps(path, (pair.pair_id for pair in found.pairs)) if ranks.is_first else None
    cached = ranks.gather(cached)[0]
    if cached is not None:
        say(f"reference log-probs read from {path}") if ranks.is_first else None
        return cached
    logps = score(loaded, found.pairs, options, ranks)
    if ranks.is_first:
        write_logps(path, logps, key)
        say(f"reference log-probs of {len(logps)} rows cached in {path}")
    return logps


def sampler_files(options: ReferenceOptions) -> list[Path]:
    """The side files beside the dataset.

    Raises:
        UsageError: there are none.
    """
    files = sorted(path for source in options.data for path in Path(source).glob("sampler_logps/*.parquet"))
    if not files:
        raise UsageError(
            f"--reference sampler, but {', '.join(options.data)} has no sampler_logps/*.parquet; hint: --reference computed"
        )
    return files


def files_hash(files: Sequence[Path]) -> str:
    """The identity of the files' contents, in order."""
    return config_hash([hashlib.sha256(path.read_bytes()).hexdigest() for path in files])


def sampled(files: Sequence[Path], model_hash: str) -> Logps:
    """The sampler's log-probabilities of pairs both of whose completions this very model sampled."""
    logps: Logps = {}
    for path in files:
        for row in pq.read_table(path, page_checksum_verification=True).to_pylist():
            chosen, rejected = row["logp_chosen"], row["logp_rejected"]
            same = row["model_hash_chosen"] == row["model_hash_rejected"] == model_hash
            if (
                same
                and chosen is not None
                and rejected is not None
                and math.isfinite(chosen)
                and math.isfinite(rejected)
            ):
                logps[row["pair_id"]] = (chosen, rejected)
    return logps


def drift(ours: Logps, theirs: Logps, pairs: Sequence[Pair]) -> Drift:
    """How far two sources are apart on these pairs."""
    gaps = [
        (abs(a - b), n)
        for pair in pairs
        for a, b, n in zip(
            ours[pair.pair_id], theirs[pair.pair_id], (len(pair.chosen), len(pair.rejected)), strict=True
        )
    ]
    return Drift(math.fsum(gap / n for gap, n in gaps) / len(gaps), max(gap for gap, _ in gaps), len(gaps))


def spread_sample(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Up to `count` pairs, chosen by the hash of their ids."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(pair.pair_id.encode()).digest())[:count]


def check_drift(what: str, found: Drift, limit: float) -> None:
    """Prints the check; stops when it is out of bounds.

    Raises:
        TrainerError: the two disagree.
    """
    say(f"{what}: {found}; limit {limit:g} a token")
    if not found.per_token <= limit:
        raise TrainerError(
            f"{what}: they differ by {found}, more than {limit:g} a token; hint: is this the model that the numbers are of? "
            "--reference computed asks the model itself"
        )


def from_sampler(loaded: Loaded, found: PairSet, options: ReferenceOptions, ranks: Ranks) -> Logps:
    """The sampler's log-probabilities where they are this model's, checked on a sample; the others are computed."""
    theirs = sampled(sampler_files(options), loaded.model_hash)
    covered = [pair for pair in found.pairs if pair.pair_id in theirs]
    rest = [pair for pair in found.pairs if pair.pair_id not in theirs]
    if ranks.is_first:
        say(f"reference: {len(covered)} pairs from the sampler, {len(rest)} to compute")
    if covered:
        probe = spread_sample(covered, options.drift_sample)
        ours = score(loaded, probe, options, ranks)
        check_drift("sampler against this model's forward pass", drift(ours, theirs, probe), options.drift_limit)
    kept = {pair.pair_id: theirs[pair.pair_id] for pair in covered}
    return kept | (computed(loaded, PairSet(rest), options, ranks) if rest else {})


def reference_logps(
    loaded: Loaded, found: PairSet, more: Sequence[PairSet], options: ReferenceOptions, ranks: Ranks
) -> Logps:
    """The reference's log-probabilities of every pair of these sets, by the options: of none where it is not known beforehand.

    The policy, which has made no step yet, is compared with it on the first set.

    Raises:
        TrainerError: they are one model, and disagree.
    """
    if not options.reference_known:
        return {}
    asked = load_frozen(options.reference_model, options, loaded) if options.reference_model else loaded
    source = from_sampler if options.reference == "sampler" else computed
    logps = {name: pair for part in (found, *more) for name, pair in source(asked, part, options, ranks).items()}
    start_check(loaded, found.pairs, logps, options, ranks)
    return logps


def start_check(
    loaded: Loaded, pairs: Sequence[Pair], reference: Logps, options: ReferenceOptions, ranks: Ranks
) -> None:
    """Prints how far policy and reference are apart before the first step, and bounds it where they are one model."""
    probe = spread_sample(pairs, options.drift_sample)
    exact = loaded.dtype == torch.float32 and options.reference == "computed"
    gap = drift(score(loaded, probe, options, ranks), reference, probe)
    if options.reference_model:
        say(f"policy against {options.reference_model} at step 0: {gap}")
        return
    check_drift("policy against reference at step 0", gap, EXACT if exact else options.drift_limit)

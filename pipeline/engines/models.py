"""Models as the config names them: a folder, or a name on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import ConfigError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")


def check_model(model: str) -> None:
    """Raises ConfigError when `model` names a folder that is missing or that lacks what an engine needs."""
    folder = Path(model)
    if not folder.is_dir():
        if model.startswith(("/", ".", "~")) or model.count("/") > 1:
            raise ConfigError(
                f"model {model}: no such folder; hint: a path to a model folder, or a Hub name like org/name"
            )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"model {model}: has no config.json; hint: save it with save_pretrained")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ConfigError(
            f"model {model}: has no tokenizer ({', '.join(TOKENIZER_FILES)}); "
            "hint: save the tokenizer into the model's folder with tokenizer.save_pretrained"
        )


def hub_commit(name: str, revision: str | None) -> str:
    """The commit that `name` at `revision` stands for: from the Hub, or the local cache when it cannot be reached."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    cached = try_to_load_from_cache(name, "config.json", revision=revision)
    if isinstance(cached, str):
        return Path(cached).parent.name
    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # the client raises a wide family, offline and not-found among it
        raise ConfigError(
            f"model {name}: not in the local cache and the Hub does not give it ({type(error).__name__}); "
            "hint: check the name, log in, or give the path of a model folder"
        ) from error

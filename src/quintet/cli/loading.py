"""Checkpoints as commands want them: for text to text on a device, or as the class that they were saved from."""

from __future__ import annotations

from typing import Any

from quintet.cli.failures import Failure


def load_text_to_text(name: str, device: str, dtype: str, quantize: str | None) -> Any:
    """The model on its device. Raises ValueError for a device that is not there, before anything is read.

    Failure if the checkpoint lacks weights: drawn anew, they would answer nonsense.
    """
    from quintet.auto import AutoModelForSeq2SeqLM
    from quintet.pipelines.devices import device_of

    place = device_of(device)
    options = {"dtype": dtype, "quantization_config": quantize}
    model, report = AutoModelForSeq2SeqLM.from_pretrained(name, output_loading_info=True, **options)
    refuse_missing(name, model, report)
    return model.to(place)


def refuse_missing(name: str, model: Any, report: dict[str, list[str]]) -> None:
    """Failure if weights of the model are not in the checkpoint."""
    if missing := report["missing_keys"]:
        raise Failure(f"{name} lacks weights of {type(model).__name__}: {', '.join(missing[:5])}")


def load_as_saved(name: str, **options: Any) -> tuple[Any, dict[str, list[str]]]:
    """The model, of the class that config.json names, and the report of its loading (see `from_pretrained`).

    Where no class of quintet is named, as in T5's first checkpoints, it is the one for text to text.
    """
    import quintet

    config = quintet.AutoConfig.from_pretrained(name)
    saved = (config.architectures or [None])[0]
    loader = getattr(quintet, saved) if saved in quintet.__all__ else quintet.AutoModelForSeq2SeqLM
    return loader.from_pretrained(name, output_loading_info=True, **options)

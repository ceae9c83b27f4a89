"""Checkpoints as commands want them: for text to text on a device, or as the class that they were saved from."""

from __future__ import annotations

from typing import Any


def load_text_to_text(name: str, device: str, dtype: str, quantize: str | None) -> Any:
    """The model on its device. Raises ValueError for a device that is not there, before anything is read."""
    from quintet.auto import AutoModelForSeq2SeqLM
    from quintet.pipelines.devices import device_of

    place = device_of(device)
    return AutoModelForSeq2SeqLM.from_pretrained(name, dtype=dtype, quantization_config=quantize).to(place)


def load_as_saved(name: str, **options: Any) -> tuple[Any, dict[str, list[str]]]:
    """The model, of the class that config.json names, and the report of its loading (see `from_pretrained`).

    Where no class of quintet is named, as in T5's first checkpoints, it is the one for text to text.
    """
    import quintet

    config = quintet.AutoConfig.from_pretrained(name)
    saved = (config.architectures or [None])[0]
    loader = getattr(quintet, saved) if saved in quintet.__all__ else quintet.AutoModelForSeq2SeqLM
    return loader.from_pretrained(name, output_loading_info=True, **options)

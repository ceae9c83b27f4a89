"""Checkpoints as commands want them: for text to text on a device, or as the class that they were saved from."""

from __future__ import annotations

from typing import Any

from quintet.cli.failures import Failure

PRECISIONS: dict[str, tuple[str, str | None]] = {
    "fp32": ("float32", None),
    "bf16": ("bfloat16", None),
    "int8": ("bfloat16", "int8"),
    "int4": ("bfloat16", "int4"),
}
"""What --precision stands for: the dtype, and the rounding of linear layers."""


def dtype_and_rounding(
    precision: str | None, dtype: str | None, quantize: str | None, default: str = "float32"
) -> tuple[str, str | None]:
    """What the three options ask for. Failure for an unknown precision, or one beside the options it stands for."""
    if precision is None:
        return dtype or default, quantize
    if dtype is not None or quantize is not None:
        raise Failure(f"give --precision or --{'quantize' if dtype is None else 'dtype'}, not both")
    if precision not in PRECISIONS:
        raise Failure(f"--precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    return PRECISIONS[precision]


def load_text_to_text(name: str, device: str, dtype: str, quantize: str | None) -> Any:
    """The model on its device. Raises ValueError for a device that is not there, before anything is read.

    Failure if the checkpoint lacks weights: drawn anew, they would answer nonsense.
    """
    from quintet.auto import AutoConfig, AutoModelForSeq2SeqLM
    from quintet.model.inspection import inspect
    from quintet.pipelines.devices import device_of

    place = device_of(device)
    model_class = AutoModelForSeq2SeqLM.class_for(AutoConfig.from_pretrained(name))
    refuse_missing(name, inspect(model_class, name))
    return model_class.from_pretrained(name, dtype=dtype, quantization_config=quantize).to(place)


def refuse_missing(name: str, found: Any) -> None:
    """Failure if weights of the model are not in the checkpoint that was inspected."""
    if missing := found.report.missing:
        more = ", ..." if missing[5:] else ""
        raise Failure(f"{name} lacks weights of {type(found.model).__name__}: {', '.join(missing[:5])}{more}")


def inspect_as_saved(name: str) -> Any:
    """What the headers of a checkpoint say (see `inspect`), for the class that its config.json names.

    Where no model of quintet is named, as in T5's first checkpoints, it is the one for text to text.
    """
    import quintet
    from quintet.model.inspection import inspect

    config = quintet.AutoConfig.from_pretrained(name)
    model_class: Any = getattr(quintet, (config.architectures or [""])[0], None)
    if not isinstance(model_class, type) or not issubclass(model_class, quintet.T5PreTrainedModel):
        model_class = quintet.AutoModelForSeq2SeqLM.class_for(config)
    return inspect(model_class, name)


def tokenizer_files(name: str) -> tuple[type, list[str]] | None:
    """The class of a checkpoint's tokenizer and the files of its vocabulary that are there; None if there are none.

    ValueError if it is another family's.
    """
    from quintet.auto import AutoTokenizer
    from quintet.files.gguf import is_gguf
    from quintet.hub import Source

    if is_gguf(name):
        return None
    source = Source(name)
    tokenizer = AutoTokenizer.class_for(source)
    wanted = tokenizer.vocab_files_names.values()
    found = [filename for filename in wanted if source.find(filename) is not None]
    return (tokenizer, found) if found or not wanted else None

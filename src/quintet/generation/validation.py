"""Which values of the options of `generate` make sense, alone and together."""

from __future__ import annotations

import logging
from functools import lru_cache
from numbers import Real
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quintet.generation.config import GenerationConfig

logger = logging.getLogger(__name__)

CACHES = ("dynamic", "static")
SCHEDULES = ("constant", "heuristic", "heuristic_transient")
WHOLE_NUMBERS = {  # option: the smallest number allowed
    "max_length": 1,
    "max_new_tokens": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "num_assistant_tokens": 1,
    "prompt_lookup_num_tokens": 1,
    "max_matching_ngram_size": 1,
    "vocab_limit": 1,
}
NEEDED = ("max_length", "num_beams", "num_beam_groups", "num_return_sequences")  # not optional
NOT_SUPPORTED = {  # option: the values that ask for nothing
    "guidance_scale": (None, 1, 1.0),
    "dola_layers": (None,),
    "low_memory": (None, False),
    "watermarking_config": (None,),
    "token_healing": (None, False),
    "assistant_early_exit": (None,),
    "prefill_chunk_size": (None,),
    "cache_config": (None,),
    "compile_config": (None,),
    "negative_prompt_ids": (None,),
    "negative_prompt_attention_mask": (None,),
    "custom_generate": (None,),
}
"""What the reference's `generate` takes and quintet does not do: refused by name."""

ACCEPTED = (
    "disable_compile",
    "synced_gpus",
    "trust_remote_code",
    "assistant_lookbehind",
    "target_lookbehind",
    "labels",
)
"""What the reference takes and what changes nothing here: nothing is compiled, and no code is loaded. Labels come along
when a trainer evaluates: it passes its whole batch on."""

SAMPLING_ONLY = {  # option: the values that leave the scores alone
    "temperature": (None, 1.0),
    "top_p": (None, 1.0),
    "min_p": (None,),
    "typical_p": (None, 1.0),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
}
BEAMS_ONLY = {"early_stopping": (False,), "num_beam_groups": (1,), "diversity_penalty": (None, 0.0)}
BEAMS_ONLY |= {"length_penalty": (None, 1.0)}


def check(config: GenerationConfig) -> None:
    """Raise ValueError for the first senseless value or contradiction, naming it."""
    for name, smallest in WHOLE_NUMBERS.items():
        _check_whole_number(name, getattr(config, name), smallest)
    if config.early_stopping not in (True, False, "never"):
        raise ValueError(f'early_stopping must be True, False or "never", got {config.early_stopping!r}')
    if config.cache_implementation not in (None, *CACHES):
        raise ValueError(
            f"cache_implementation must be one of {', '.join(CACHES)}, got {config.cache_implementation!r}"
        )
    if config.num_assistant_tokens_schedule not in SCHEDULES:
        allowed = ", ".join(SCHEDULES)
        raise ValueError(
            f"num_assistant_tokens_schedule must be one of {allowed}, not {config.num_assistant_tokens_schedule!r}"
        )
    if config.constraints is not None and not isinstance(config.constraints, (list, tuple)):
        raise ValueError(f"constraints must be a list of Constraint objects, got {config.constraints!r}")
    _check_numbers(config)
    _check_special_tokens(config)
    _check_strategies(config)
    _check_return_sequences(config)


def refuse_unsupported(options: dict[str, Any]) -> dict[str, Any]:
    """The options without those of the reference that change nothing; ValueError for those that quintet lacks."""
    for name, neutral in NOT_SUPPORTED.items():
        if name in options and options[name] not in neutral:
            raise ValueError(f"{name} is not supported: quintet decodes without it")
    return {name: value for name, value in options.items() if name not in NOT_SUPPORTED and name not in ACCEPTED}


def without_effect(config: GenerationConfig) -> dict[str, str]:
    """Options that are set and that the others make meaningless: their names, and a sentence for each."""
    found: dict[str, str] = {}
    if not config.do_sample:
        found |= _set_in_vain(config, SAMPLING_ONLY, "do_sample=True")
        if config.top_k not in (None, 0, 50) and config.penalty_alpha is None:
            found["top_k"] = f"top_k={config.top_k} needs do_sample=True, or penalty_alpha"
    if config.num_beams == 1:
        found |= _set_in_vain(config, BEAMS_ONLY, "num_beams > 1")
    if not config.return_dict_in_generate:
        flags = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
        found |= _set_in_vain(config, dict.fromkeys(flags, (None, False)), "return_dict_in_generate=True")
    if not config.use_cache:
        found |= _set_in_vain(
            config, dict.fromkeys(("cache_implementation", "return_legacy_cache"), (None,)), "use_cache=True"
        )
    return found


@lru_cache(maxsize=64)
def warn_once(sentences: tuple[str, ...]) -> None:
    """Say which options have no effect; the same ones only once."""
    logger.warning("these options have no effect: %s", "; ".join(sentences))


def _set_in_vain(config: GenerationConfig, options: dict[str, tuple[Any, ...]], needs: str) -> dict[str, str]:
    values = {name: getattr(config, name) for name in options}
    return {name: f"{name}={value!r} needs {needs}" for name, value in values.items() if value not in options[name]}


def _check_whole_number(name: str, value: Any, smallest: int) -> None:
    if value is None and name not in NEEDED:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < smallest:
        what = "a positive integer" if smallest == 1 else "an integer of at least 0"
        raise ValueError(f"{name} must be {what}, got {value!r}")


def _check_numbers(config: GenerationConfig) -> None:
    alpha, seconds, penalty = config.penalty_alpha, config.max_time, config.length_penalty
    if alpha is not None and not (_is_number(alpha) and 0 <= alpha <= 1):
        raise ValueError(f"penalty_alpha must be a number from 0 to 1, got {alpha!r}")
    if seconds is not None and not (_is_number(seconds) and seconds >= 0):
        raise ValueError(f"max_time must be a number of seconds, 0 or more, got {seconds!r}")
    if not _is_number(penalty) and (penalty is not None or config.num_beams > 1):  # only beams read it
        raise ValueError(f"length_penalty must be a number, got {penalty!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_special_tokens(config: GenerationConfig) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"):
        value = getattr(config, name)
        several = name in ("eos_token_id", "decoder_start_token_id")
        tokens = value if several and isinstance(value, (list, tuple)) else [value]
        if value is not None and not all(isinstance(token, int) and not isinstance(token, bool) for token in tokens):
            raise ValueError(f"{name} must be an integer{' or a list of them' if several else ''}, got {value!r}")
    start = config.decoder_start_token_id
    if start is None:
        return
    starts = [start] if isinstance(start, int) else start
    if not starts or min(starts) < 0:
        raise ValueError(f"decoder_start_token_id must be a token id, 0 or more, or a list of them, got {start!r}")


def _check_strategies(config: GenerationConfig) -> None:
    forced = config.force_words_ids is not None or bool(config.constraints)
    grouped = config.num_beam_groups > 1 or bool(config.diversity_penalty)
    if config.num_beam_groups > 1 and config.num_beams == 1:
        raise ValueError(
            f"num_beam_groups={config.num_beam_groups} contradicts num_beams=1: groups are groups of beams"
        )
    if forced and config.num_beams > 1 and grouped:
        raise ValueError("force_words_ids and constraints contradict num_beam_groups and diversity_penalty")
    if config.penalty_alpha and config.do_sample:
        raise ValueError(f"penalty_alpha={config.penalty_alpha} contradicts do_sample=True")
    if config.num_beams == 1:
        return
    if config.penalty_alpha:
        raise ValueError(f"penalty_alpha={config.penalty_alpha} contradicts num_beams={config.num_beams}")
    if config.do_sample and (forced or grouped):
        other = "force_words_ids and constraints" if forced else "num_beam_groups and diversity_penalty"
        raise ValueError(f"do_sample=True contradicts {other}")
    if grouped and config.num_beams % config.num_beam_groups:
        raise ValueError(f"num_beams={config.num_beams} must be a multiple of num_beam_groups={config.num_beam_groups}")
    if grouped and not config.diversity_penalty:
        raise ValueError("num_beam_groups needs a diversity_penalty above 0: otherwise all groups are alike")


def _check_return_sequences(config: GenerationConfig) -> None:
    several = config.num_return_sequences
    if several > 1 and config.num_beams == 1 and not config.do_sample:
        raise ValueError(f"num_return_sequences={several} needs do_sample=True or num_beams: greedy finds one sequence")
    if config.num_beams > 1 and several > config.num_beams:
        raise ValueError(f"num_return_sequences={several} must be at most num_beams={config.num_beams}")

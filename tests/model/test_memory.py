"""Attention that does not fit into memory is refused before it begins; what it takes is what was estimated.

And memory that is kept when it is freed.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import quintet
from quintet.model import memory

from .reference import build

HEAD = "ForConditionalGeneration"
IDS = torch.ones(2, 40, dtype=torch.long)


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is asked for, as it is asked; nothing is refused."""
    asked: list[int] = []
    monkeypatch.setattr(memory, "refuse_what_does_not_fit", lambda needed, what: asked.append(needed))
    return asked


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how much memory there is, in bytes."""

    def set_available(room: int) -> None:
        monkeypatch.setattr(memory, "LITTLE", 0)
        monkeypatch.setattr(memory, "available_bytes", lambda: room)

    return set_available


def peak_of(compute: Callable[[], Any]) -> int:
    """The bytes that PyTorch holds at most, beyond those it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        compute()
    events = sorted(recorded.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return max(accumulate(changes))


def encoder(family: str, **values: Any) -> Any:
    sizes = {"vocab_size": 99, "d_model": 16, "d_kv": 4, "d_ff": 16, "num_layers": 4, "num_heads": 12}
    config = getattr(quintet, f"{family}Config")(**{**sizes, **values})
    model = getattr(quintet, f"{family}EncoderModel")(config).eval()
    model.engine = "eager"  # the native engine's memory is linear in the length
    return model


@pytest.mark.parametrize(
    ("family", "rows", "masked", "learns", "values"),
    [
        ("T5", 1, True, False, {}),
        ("T5", 1, False, False, {"num_heads": 2}),
        ("T5", 3, True, False, {}),
        ("T5", 3, False, False, {}),
        ("UMT5", 1, True, False, {}),
        ("T5", 1, True, True, {}),
        ("T5", 1, True, False, {"attn_implementation": "eager"}),
        ("T5", 1, True, False, {"attn_implementation": "eager", "num_layers": 12}),
        ("T5", 1, True, False, {"attn_implementation": "eager", "output_attentions": True}),
    ],
)
def test_the_estimate_is_what_is_taken(
    family: str, rows: int, masked: bool, learns: bool, values: dict[str, Any], estimates: list[int]
) -> None:
    model = encoder(family, **values)
    ids = torch.ones(rows, 600, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids) if masked else None}
    with torch.set_grad_enabled(learns):
        taken = peak_of(lambda: model(**inputs))
    assert 0.95 * taken < estimates[-1] <= taken


@pytest.mark.parametrize("variant", ["t5", "umt5"])
def test_what_does_not_fit_is_refused_before_it_begins(
    variant: str, estimates: list[int], only: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(quintet, "EncoderModel", variant).eval()
    model(IDS)
    monkeypatch.undo()
    only(estimates[-1])
    model(IDS)
    only(estimates[-1] - 1)
    with pytest.raises(RuntimeError, match=r"not enough memory: attention of 2 x 40 tokens needs about .* shorten"):
        model(IDS)


def test_the_message_has_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 8 * 10**9)
    with pytest.raises(RuntimeError, match=r"2 x 40,000 tokens needs about 1[0-9][0-9]\.\d GB, 8\.0 GB are available"):
        build(quintet, "EncoderModel", "t5")(torch.ones(2, 40_000, dtype=torch.long))


def test_every_way_in_is_guarded(only: Callable[[int], None]) -> None:
    model = build(quintet, HEAD, "t5").eval()
    encoded = model.get_encoder()(IDS)
    only(20_000)
    for call in (
        lambda: model.generate(IDS),
        lambda: model.score(IDS, [[[5, 6]], [[7]]]),
        lambda: model(encoder_outputs=encoded, decoder_input_ids=IDS),
    ):
        with pytest.raises(RuntimeError, match="not enough memory: attention of 2 x 40 tokens"):
            call()
    assert model.generate(encoder_outputs=encoded, max_new_tokens=3).shape[0] == 2


def test_only_what_a_cpu_would_hold_is_looked_at(only: Callable[[int], None]) -> None:
    """Not what is traced or compiled, where there are no sizes yet, nor a model without memory."""
    model = build(quintet, "EncoderModel", "t5").eval()
    only(0)
    assert torch.compile(model, fullgraph=True, backend="eager")(IDS)[0].shape == (2, 40, 32)
    assert model.to("meta")(IDS.to("meta"))[0].shape == (2, 40, 32)


def test_small_passes_ask_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise AssertionError("the system was asked")

    monkeypatch.setattr(memory, "available_bytes", fail)
    build(quintet, HEAD, "t5").eval().generate(IDS, max_new_tokens=3)


# -- what the system says


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal:  16000 kB\nMemFree:  1000 kB\nMemAvailable:  9000 kB\nHugePages_Total:  0\n"}


def test_the_machine(tmp_path: Path) -> None:
    assert memory.available_bytes(tmp_path) is None
    assert memory.available_bytes(write(tmp_path, MEMINFO)) == 9000 * 1024


def test_control_groups_of_version_2(tmp_path: Path) -> None:
    """The narrowest limit of the group and of those around it; cached files give way."""
    inner, outer = "sys/fs/cgroup/a/b/", "sys/fs/cgroup/a/"
    write(tmp_path, {**MEMINFO, "proc/self/cgroup": "0::/a/b\n", inner + "memory.max": "max\n"})
    assert memory.available_bytes(tmp_path) == 9000 * 1024
    write(tmp_path, {outer + "memory.max": "5000000\n", outer + "memory.current": "3000000\n"})
    write(tmp_path, {outer + "memory.stat": "anon 2000000\ninactive_file 600000\nactive_file 300000\n"})
    assert memory.available_bytes(tmp_path) == 2_900_000


def test_control_groups_of_version_1(tmp_path: Path) -> None:
    """In a container the group's path is that of the host, and its limit is outermost."""
    folder = "sys/fs/cgroup/memory/"
    write(tmp_path, {**MEMINFO, "proc/self/cgroup": "3:cpu,cpuacct:/x\n2:memory:/docker/1f\n0::/\n"})
    write(tmp_path, {folder + "memory.limit_in_bytes": "4000000\n", folder + "memory.usage_in_bytes": "1000000\n"})
    write(tmp_path, {folder + "memory.stat": "inactive_file 1\ntotal_inactive_file 50\ntotal_active_file 7\n"})
    assert memory.available_bytes(tmp_path) == 3_000_057
    unlimited = str(2**63 - 4096)
    assert memory.available_bytes(write(tmp_path, {folder + "memory.limit_in_bytes": unlimited})) == 9000 * 1024


PAGES_OF_A_SECOND_PIECE = """
import resource, torch
from quintet.model.memory import keep_freed_memory
keep_freed_memory()
for numbers in (2**24, 2**24 - 2**12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(numbers).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
IS_GLIBC = platform.libc_ver()[0] == "glibc" and tuple(map(int, platform.libc_ver()[1].split("."))) >= (2, 35)


@pytest.mark.skipif(not IS_GLIBC, reason="glibc keeps pieces of 64 MB from 2.35 on")
@pytest.mark.parametrize("variables", [{}, {"MALLOC_MMAP_THRESHOLD_": "1000000"}])
def test_freed_memory_is_kept_unless_it_was_set_otherwise(variables: dict[str, str]) -> None:
    """The kernel brings pages of 4 KB one by one, 16,380 of them, unless its own are larger."""
    command = [sys.executable, "-c", PAGES_OF_A_SECOND_PIECE]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 16_000 if variables else int(done.stdout) < 1000

"""Text as it is generated: printed, or handed to whoever iterates in another thread or coroutine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from queue import Queue
from typing import Any

import torch

_KEPT = 32
"""Tokens that stay when older ones are let go: more than a character, or what is cleaned up around it, spans."""

_CJK = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
"""Blocks of ideographs, which are written without spaces. Kana and Hangul are not among them."""


class BaseStreamer:
    """What `generate` asks of a streamer.

    One that also has `fail(error)` is told of an error that ends generation, in place of `end`.
    """

    def put(self, value: torch.Tensor) -> None:
        """Take the next token ids, (n,) or (1, n): first the decoder's prefix, then what is generated."""
        raise NotImplementedError(f"{type(self).__name__} must define put(value)")

    def end(self) -> None:
        """Generation is over."""
        raise NotImplementedError(f"{type(self).__name__} must define end()")


class TextStreamer(BaseStreamer):
    """Prints the text of one sequence as soon as words are complete.

    A word is complete at a space, an ideograph at once, and everything at the end of a line. `skip_prompt` leaves out
    the decoder's prefix; `decode_kwargs` go to `tokenizer.decode`.
    """

    token_cache: list[int]
    print_len: int
    _settled: str  # the text of tokens that have left the cache
    _enough: int  # tokens in the cache at which it is worth a try to let go of some

    def __init__(self, tokenizer: Any, skip_prompt: bool = False, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.skip_prompt = skip_prompt
        self.decode_kwargs = decode_kwargs
        self.next_tokens_are_prompt = True
        self._clear()

    def put(self, value: torch.Tensor) -> None:
        """Take the next token ids, (n,) or (1, n). Raises ValueError for a batch of several sequences."""
        ids = torch.as_tensor(value)
        if ids.dim() == 2 and len(ids) == 1:
            ids = ids[0]
        if ids.dim() != 1:
            raise ValueError(f"TextStreamer only supports batch size 1: got ids of shape {tuple(ids.shape)}")
        if self.skip_prompt and self.next_tokens_are_prompt:
            self.next_tokens_are_prompt = False
            return
        self.token_cache.extend(ids.tolist())
        self.on_finalized_text(self._complete_part(self._text()))

    def end(self) -> None:
        """Hand out the rest of the text. The streamer is then ready for another sequence."""
        rest = self._text()[self.print_len :] if self.token_cache else ""
        self._clear()
        self.next_tokens_are_prompt = True
        self.on_finalized_text(rest, stream_end=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print a piece of text, which may be empty, and a newline at the end. Subclasses do something else with it."""
        print(text, flush=True, end="\n" if stream_end else "")

    def _complete_part(self, text: str) -> str:
        """What of the text is complete and was not handed out yet."""
        if text.endswith("\n"):
            part = text[self.print_len :]
            self._clear()
            return part
        complete = len(text) if text and _is_cjk(text[-1]) else text.rfind(" ") + 1
        part = text[self.print_len : complete]
        self.print_len += len(part)
        if len(self.token_cache) >= self._enough:
            self._let_go(text)
        return part

    def _let_go(self, text: str) -> None:
        """Keep the text of old tokens in place of the tokens: each step decodes the cache, which must not grow forever.

        Done only where nothing changes: the kept tokens have to decode to the end of the text, and still do so with a
        closing token behind them, for which T5Tokenizer may insert a space far back.
        """
        kept = self.token_cache[-_KEPT:]
        tail = self._decode(kept)
        settled = text[: len(text) - len(tail)]
        eos = getattr(self.tokenizer, "eos_token_id", None)
        closing = [] if eos is None else [eos]
        closed = self._settled + self._decode(self.token_cache + closing)
        if tail and closed == settled + self._decode(kept + closing):
            self._settled, self.token_cache = settled, kept
        self._enough = 2 * len(self.token_cache)

    def _text(self) -> str:
        return self._settled + self._decode(self.token_cache)

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, **self.decode_kwargs)

    def _clear(self) -> None:
        self.token_cache = []
        self.print_len = 0
        self._settled = ""
        self._enough = 2 * _KEPT


@dataclass(frozen=True)
class _Failure:
    """Stands in a queue for the error that ended generation."""

    error: BaseException


class _QueueStreamer(TextStreamer):
    """Puts pieces of text in a queue, then a stop signal or an error."""

    text_queue: Any
    stop_signal: Any = None

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, **decode_kwargs)
        self.timeout = timeout
        self._is_over = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Queue a piece of text, and the stop signal at the end."""
        self._send(text)
        if stream_end:
            self._send(self.stop_signal)

    def fail(self, error: BaseException) -> None:
        """Generation has ended with an error: whoever iterates gets it, after the text that came before."""
        self._clear()
        self.next_tokens_are_prompt = True
        self._send(_Failure(error))

    def _send(self, item: Any) -> None:
        raise NotImplementedError

    def _is_text(self, item: Any) -> bool:
        """Whether a queue's item is text and not the end; an error is raised."""
        if isinstance(item, _Failure):
            self._is_over = True
            raise item.error
        self._is_over = item == self.stop_signal
        return not self._is_over


class TextIteratorStreamer(_QueueStreamer):
    """Iterates over the pieces of text while `generate` runs in another thread.

    After the end, `next` raises StopIteration, and a new `for` waits for another generation. An error that ends
    generation is raised here too. Raises queue.Empty where no piece comes for `timeout` seconds; None waits forever.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, timeout, **decode_kwargs)
        self.text_queue: Queue[Any] = Queue()

    def _send(self, item: Any) -> None:
        self.text_queue.put(item)

    def __iter__(self) -> TextIteratorStreamer:
        self._is_over = False
        return self

    def __next__(self) -> str:
        if self._is_over or not self._is_text(item := self.text_queue.get(timeout=self.timeout)):
            raise StopIteration
        return item


class AsyncTextIteratorStreamer(_QueueStreamer):
    """Iterates over the pieces of text, with `async for`, while `generate` runs in another thread.

    Made inside a coroutine: pieces arrive in its event loop. After the end, `anext` raises StopAsyncIteration, and a
    new `async for` waits for another generation. An error that ends generation is raised here too. Raises TimeoutError
    where no piece comes for `timeout` seconds (None waits forever), RuntimeError if made outside of an event loop.
    """

    def __init__(
        self, tokenizer: Any, skip_prompt: bool = False, timeout: float | None = None, **decode_kwargs: Any
    ) -> None:
        super().__init__(tokenizer, skip_prompt, timeout, **decode_kwargs)
        self.text_queue: asyncio.Queue[Any] = asyncio.Queue()
        try:
            self.loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise RuntimeError(
                "AsyncTextIteratorStreamer must be made inside a coroutine, in whose event loop text is to arrive"
            ) from error

    def _send(self, item: Any) -> None:
        self.loop.call_soon_threadsafe(self.text_queue.put_nowait, item)

    def __aiter__(self) -> AsyncTextIteratorStreamer:
        self._is_over = False
        return self

    async def __anext__(self) -> str:
        if self._is_over or not self._is_text(item := await self._next_item()):
            raise StopAsyncIteration
        return item

    async def _next_item(self) -> Any:
        try:
            return await asyncio.wait_for(self.text_queue.get(), self.timeout)
        except asyncio.TimeoutError as error:  # before Python 3.11 not the built-in one
            raise TimeoutError(f"no text came for {self.timeout} seconds") from error


def _is_cjk(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _CJK)

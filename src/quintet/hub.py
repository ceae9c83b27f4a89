"""A model's name or path turned into local files: the only place that downloads.

One model needs no download: `SHIPPED` lies in the package. `huggingface_hub` is imported when a file is first looked up
on the Hub, so that importing this module costs nothing.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

logger = logging.getLogger(__name__)

SHIPPED = "quintet-mini"
"""The name of the model that lies in the package."""
SHIPPED_FOLDER = Path(__file__).with_name("mini")

_COMMIT_HASH_LENGTH = 40


@dataclass
class _Findings:
    """What the Hub's answers to a source have shown so far."""

    commit: str | None = None
    unreachable: bool = False


@dataclass(frozen=True)
class Source:
    """Where a model's files come from: a folder, the package, or a repository on the Hugging Face Hub.

    `name_or_path` is a folder if one of that name exists; else "quintet-mini" is the model in the package, and any
    other name a repository ("namespace/name" or "name"). The other fields mean what they mean in `from_pretrained` of
    the reference; all but `subfolder` concern repositories only.
    Setting HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE acts as `local_files_only`, from the next look-up on.

    The first file found in a repository decides the commit that all further ones come from: a repository that changes
    during a load is not read half old and half new, and what is cached for that commit is not asked for again. A Hub
    that does not answer once is not asked again either.
    """

    name_or_path: str | os.PathLike[str]
    revision: str | None = None
    cache_dir: str | Path | None = None
    token: str | bool | None = None
    subfolder: str = ""
    local_files_only: bool = False
    force_download: bool = False
    _findings: _Findings = field(default_factory=_Findings, init=False, repr=False, compare=False)

    @classmethod
    def take_options(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Remove from `kwargs` what says where files come from (revision, token, ...), and return it."""
        names = [option.name for option in fields(cls) if option.init and option.name != "name_or_path"]
        return {name: kwargs.pop(name) for name in names if name in kwargs}

    def __str__(self) -> str:
        return os.fspath(self.name_or_path)

    @property
    def is_local(self) -> bool:
        """Whether the files lie in a folder on this machine, or in the package."""
        return os.path.isdir(self.name_or_path) or self._is_shipped

    def find(self, filename: str) -> Path | None:
        """The local path of `filename`, downloaded if need be; None where the folder or repository has no such file.

        Without a network (or offline on request) a repository is what its cache holds. Raises OSError, naming the
        repository and what to do, if it does not exist, is gated, lacks the revision, or is neither cached nor
        reachable, and if the package was built without its model; ValueError if `force_download` is asked for offline.
        """
        if self.is_local:
            path = self._folder / filename
            return path if path.is_file() else None
        return self._find_on_hub(filename)

    def file(self, filename: str) -> Path:
        """Like `find`, but a missing file is a FileNotFoundError that says where it was looked for."""
        path = self.find(filename)
        if path is None:
            raise self.missing(filename)
        return path

    def missing(self, *filenames: str) -> FileNotFoundError:
        """The error to raise when none of `filenames` was found: where they were looked for, and what to do."""
        wanted = filenames[0] if len(filenames) == 1 else f"any of {', '.join(filenames)}"
        return FileNotFoundError(f"{self._place} does not hold {wanted}. {self._advice}")

    @property
    def _is_shipped(self) -> bool:
        return str(self) == SHIPPED and not os.path.isdir(self.name_or_path)

    @property
    def _folder(self) -> Path:
        return Path(_shipped_folder() if self._is_shipped else self.name_or_path, self.subfolder)

    @property
    def _offline(self) -> bool:
        return self.local_files_only or _offline_by_environment()

    @property
    def _place(self) -> str:
        if self.is_local:
            return f"the folder {self._folder}"
        inside = f"the folder {self.subfolder!r} of " if self.subfolder else ""
        return f"{inside}the repository {str(self)!r} at revision {self.revision or 'main'!r}"

    @property
    def _advice(self) -> str:
        if self.is_local:
            if not self._folder.is_dir():
                return "There is no such folder: check `subfolder`."
            held = sorted(path.name for path in self._folder.iterdir())
            return f"It holds: {', '.join(held[:20])}{', ...' if len(held) > 20 else ''}." if held else "It is empty."
        if self._offline:
            return "Only the local cache was searched (offline mode): allow downloads once to fetch it."
        return f"The files it has: https://huggingface.co/{self}/tree/{self.revision or 'main'}"

    def _find_on_hub(self, filename: str) -> Path | None:
        from huggingface_hub import errors, hf_hub_download

        self._check_repository_name()
        if self.force_download and self._offline:
            raise ValueError(f"force_download=True needs the network, but {str(self)!r} is to be loaded offline.")
        place = str(PurePosixPath(self.subfolder, filename))
        if self._known_absent(place):
            return None
        try:
            path = hf_hub_download(
                str(self),
                place,
                revision=self._commit_or_revision,
                cache_dir=self.cache_dir,
                token=self.token,
                force_download=self.force_download,
                local_files_only=self._offline or self._findings.unreachable,
            )
        except errors.LocalEntryNotFoundError as error:
            self._findings.unreachable = not self._offline
            self._check_cached(filename, error)
            return None
        except errors.EntryNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise OSError(self._explain(filename, error)) from error
        self._findings.commit = Path(path).parents[place.count("/")].name  # the path ends in snapshots/COMMIT/place
        return Path(path)

    @property
    def _commit_or_revision(self) -> str | None:
        return self._findings.commit or self.revision

    def _check_repository_name(self) -> None:
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        if os.path.isfile(self.name_or_path):
            raise NotADirectoryError(f"{str(self)!r} is a file: give the folder that holds the model's files.")
        try:
            validate_repo_id(str(self))
        except HFValidationError as error:
            raise OSError(
                f"{str(self)!r} is neither an existing folder nor a possible repository name on the Hugging Face Hub "
                '("namespace/name" or "name").'
            ) from error

    def _known_absent(self, place: str) -> bool:
        """Whether the cache remembers that this commit has no such file (a branch may have gained it since)."""
        from huggingface_hub import _CACHED_NO_EXIST, try_to_load_from_cache

        commit = self._commit_or_revision
        if self.force_download or len(commit or "") != _COMMIT_HASH_LENGTH:
            return False
        known = try_to_load_from_cache(str(self), place, cache_dir=self.cache_dir, revision=commit)
        return known is _CACHED_NO_EXIST

    def _check_cached(self, filename: str, error: Exception) -> None:
        """The Hub did not answer: a file counts as absent if this revision is cached without it, else raise OSError."""
        from huggingface_hub import errors, snapshot_download

        try:
            snapshot_download(
                str(self), revision=self._commit_or_revision, cache_dir=self.cache_dir, local_files_only=True
            )
        except errors.LocalEntryNotFoundError:
            raise OSError(self._explain(filename, error)) from error
        if not self._offline:
            logger.warning("The Hub cannot be reached; %s counts as absent from the cached %s.", filename, self)

    def _explain(self, filename: str, error: Exception) -> str:
        from huggingface_hub import errors

        page = f"https://huggingface.co/{self}"
        match error:
            case errors.GatedRepoError():
                reason = f"its owner asks for consent: accept the conditions at {page}, then pass `token` or log in"
            case errors.RepositoryNotFoundError():
                reason = (
                    f"there is no folder of that name, and no repository that you may see at {page}: "
                    "check the spelling; for a private one, pass `token` or log in with `hf auth login`"
                )
            case errors.RevisionNotFoundError():
                reason = f"it has no revision {self.revision!r}: {page} lists its branches, tags and commits"
            case errors.LocalEntryNotFoundError() if self._offline:
                reason = (
                    "it is not in the local cache, and downloads are off "
                    "(local_files_only, HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE): allow them once to fetch it"
                )
            case errors.LocalEntryNotFoundError():
                reason = "the Hub cannot be reached, and it is not in the local cache: check the network"
            case _:
                reason = str(error)
        return f"Cannot get {filename} of {str(self)!r}: {reason}."


def _shipped_folder() -> Path:
    """Where the package keeps its model. Raises FileNotFoundError if it was built without its files."""
    if not any(SHIPPED_FOLDER.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{SHIPPED!r} is missing from this installation of quintet, which was built without its weights: install "
            "quintet again, or give the folder or the Hub name of another model."
        )
    return SHIPPED_FOLDER


def _offline_by_environment() -> bool:
    """Whether downloads are off: asked at each look-up, since huggingface_hub reads its own setting only once."""
    from huggingface_hub import constants

    switches = (os.environ.get("HF_HUB_OFFLINE", ""), os.environ.get("TRANSFORMERS_OFFLINE", ""))
    return constants.HF_HUB_OFFLINE or any(switch.upper() in {"1", "ON", "YES", "TRUE"} for switch in switches)

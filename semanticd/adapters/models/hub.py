"""Fetches models from the Hugging Face hub: resumable, with progress, quiet about being offline."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from semanticd.application.ports.models import PullProgress
from semanticd.domain.errors import ModelDownloadError
from semanticd.domain.size_text import at_least, at_most

_PATTERNS = [
    "*.json",
    "*.safetensors",
    "*.model",
    "*.txt",
    "*.jinja",
    "*.py",
    "*.tiktoken",
    "*.jsonl",
]
_REACH_TIMEOUT_S = 2.5
_POLL_S = 0.5


def pull_from_hub(
    repo: str,
    folder: Path,
    *,
    on_progress: Callable[[PullProgress], None],
    reach_timeout_s: float = _REACH_TIMEOUT_S,
) -> None:
    """Download a repository's model files into `folder`; existing ones are not downloaded again.

    Raises:
        ModelDownloadError: The hub cannot be reached, or has no such model, or refuses it.
    """
    if os.environ.get("HF_HUB_OFFLINE", "") not in {"", "0"}:
        raise ModelDownloadError(
            f"cannot fetch {repo}: HF_HUB_OFFLINE is set; unset it or use a local folder"
        )
    # Imported here: the hub's client takes half a second to import and is rarely needed.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
    )

    on_progress(PullProgress("asking the hub"))
    try:
        info = HfApi().model_info(repo, files_metadata=True, timeout=reach_timeout_s)
    except GatedRepoError as error:
        raise ModelDownloadError(
            f"cannot fetch {repo}: its owner requires consent; accept it on the model's page and set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelDownloadError(
            f"cannot fetch {repo}: the hub has no such model, or it is private and HF_TOKEN is not set"
        ) from error
    except HFValidationError as error:
        raise ModelDownloadError(
            f"cannot fetch {repo}: models on the hub have names of the form org/name"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _not_reached(repo, error) from error
    except Exception as error:
        # The client's transport raises errors of its own library, which it does not promise.
        raise _not_reached(repo, error) from error
    wanted = [s for s in info.siblings or [] if any(Path(s.rfilename).match(p) for p in _PATTERNS)]
    total = sum(s.size or 0 for s in wanted)
    _check_room(repo, folder, total)
    on_progress(PullProgress("downloading", 0, total))
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(folder, total, on_progress, done), daemon=True)
    watcher.start()
    try:
        snapshot_download(repo, local_dir=folder, allow_patterns=_PATTERNS)
    except Exception as error:
        raise ModelDownloadError(
            f"fetching {repo} was interrupted ({_short(error)}); pull it again, the download resumes where it stopped"
        ) from error
    finally:
        done.set()
        watcher.join()


def _check_room(repo: str, folder: Path, total: int) -> None:
    """Refuse a download that does not fit, before it starts; existing files are not downloaded again."""
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if total - there > free:
        raise ModelDownloadError(
            f"cannot fetch {repo}: it takes {at_least(total)}, and {at_most(free)} are free in "
            f"{existing}; make room, or set SEMANTIC_MODELS_DIR to a folder on another disk"
        )


def _watch(
    folder: Path, total: int, on_progress: Callable[[PullProgress], None], done: threading.Event
) -> None:
    while not done.wait(_POLL_S):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        on_progress(PullProgress("downloading", min(size, total), total))


def _not_reached(repo: str, error: Exception) -> ModelDownloadError:
    return ModelDownloadError(
        f"cannot fetch {repo}: the hub cannot be reached ({_short(error)}); check the network, set HF_ENDPOINT to a "
        "mirror, or give a model's folder or .gguf file instead"
    )


def _short(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200]

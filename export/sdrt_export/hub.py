"""Downloads the files of one autoencoder from the Hugging Face hub, or states in one line what to fetch by hand."""

from __future__ import annotations

import logging
import os
import urllib.error
import urllib.request
from pathlib import Path

from sdrt.errors import ModelError, first_line
from sdrt_export.checkpoint import read_weight_map
from sdrt_export.weights_files import CONFIG, NAMES

LOCAL = Path("models") / "sources"
"""The folder for a repository's files on a machine without network: models/sources/OWNER/NAME."""

CONNECT_SECONDS = 10.0


def download(repository: str, revision: str | None, subfolder: str | None) -> Path:
    """Fetches configuration and weights into the hub's own cache; returns the snapshot's folder.

    Without ``subfolder`` the repository's root is looked at first, then ``vae``. Without network, what the cache holds
    already is used. Nothing else of the repository is fetched.

    Raises:
        ModelError: says what to download and where to put it.
    """
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    offline = not _is_reachable(ENDPOINT)
    places = [subfolder] if subfolder else [None, "vae"]
    for place in places:
        try:
            config = _fetch(repository, CONFIG, revision, place, offline)
        except EntryNotFoundError:  # also where a cache without network lacks it
            continue
        except (HfHubHTTPError, OSError, ValueError) as error:
            raise ModelError(_refusal(repository, subfolder, first_line(error))) from None
        for name in NAMES:
            try:
                weights = _fetch(repository, name, revision, place, offline)
                if weights.suffix == ".json":
                    for part in sorted(set(read_weight_map(weights).values())):
                        _fetch(repository, part, revision, place, offline)
            except EntryNotFoundError:
                continue
            except (HfHubHTTPError, OSError, ValueError) as error:
                raise ModelError(_refusal(repository, subfolder, first_line(error))) from None
            return config.parent if place is None else config.parent.parent
    reason = "no network" if offline else "the repository has no autoencoder there"
    raise ModelError(_refusal(repository, subfolder, reason))


def _fetch(repository: str, name: str, revision: str | None, subfolder: str | None, offline: bool) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, subfolder=subfolder, revision=revision, local_files_only=offline))


def _is_reachable(endpoint: str) -> bool:
    """The hub's client would retry for half a minute before it reports that there is no network."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=CONNECT_SECONDS):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False


def _refusal(repository: str, subfolder: str | None, reason: str) -> str:
    branch = f"/{subfolder}" if subfolder else ""
    return (
        f"cannot download {repository} ({reason}): get {CONFIG} and {NAMES[0]} from "
        f"https://huggingface.co/{repository}/tree/main{branch} and put both into {LOCAL / repository}{branch}/"
    )

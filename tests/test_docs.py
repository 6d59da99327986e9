"""The documentation site leaves nothing out, and the model card says what the pack and the records say."""

from __future__ import annotations

import re
from pathlib import Path

import sdrt
from bench import card

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def test_every_public_name_is_on_the_api_page() -> None:
    """docs/API.md documents what ``sdrt.__all__`` names, each once, by the module where it lives."""
    named = re.findall(r"^::: (sdrt\.\S+)$", (DOCS / "API.md").read_text(encoding="utf-8"), re.MULTILINE)
    public = {name for name in sdrt.__all__ if name != "__version__"}
    homes = {f"sdrt.{sdrt._HOMES[name]}.{name}" for name in public if not name.endswith("Error")}
    assert sorted(named) == sorted({*homes, "sdrt.errors"})


def test_every_page_is_in_the_navigation() -> None:
    """A page of docs/ that mkdocs.yml forgets would be built and never found."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    listed = set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE))
    missing = {str(page.relative_to(DOCS).as_posix()) for page in DOCS.rglob("*.md")} - listed
    assert not missing, f"mkdocs.yml: add {sorted(missing)} to nav"


def test_the_model_card_is_that_of_the_pack() -> None:
    """Facts and figures of the card are those of the manifest and of bench/results: else run ``make card``."""
    page = card.CARD.read_text(encoding="utf-8")
    assert page == card.replaced(page), "run make card"

"""The documentation's site: built with warnings as errors, complete, and drawn by a browser."""

import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rfquant_jax
from rfquant_jax.config import default_config

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("mkdocs") is None, reason="pip install '.[docs]'"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


def test_every_guide_is_a_page(site):
    for guide in (ROOT / "docs").glob("*.md"):
        title = re.search(r"^# (.+)$", guide.read_text(), re.MULTILINE)[1].replace("`", "")
        text = (site / guide.stem / "index.html").read_text()
        assert title in re.sub(r"<[^>]+>", "", text)


def test_the_reference_has_every_field_and_every_public_name(site):
    fields = (site / "reference" / "fields" / "index.html").read_text()
    for name, value in default_config().items():
        names = [name] if not hasattr(value, "items") else [f"{name}.{field}" for field in value]
        for field in names:
            assert f"<code>{field}</code>" in fields, field
    page = (site / "reference" / "python" / "index.html").read_text()
    for name in set(rfquant_jax.__all__) - {"__version__"}:
        assert f"rfq.{name}<" in page, name


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("page", ["index.html", "reference/fields/index.html"])
def test_a_browser_shows_the_page_and_asks_no_other_host(site, page):
    address = (site / page).as_uri()
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "Search" in done.stdout
    loaded = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"(https?://[^\"]+)", done.stdout)
    assert loaded == []

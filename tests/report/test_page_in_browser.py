"""The report in headless Chromium, on a desk and on a phone."""

import html
import shutil
import subprocess

import cv2
import pytest

from rfquant_jax.report.page import SECTIONS, write_report
from tests.report.parsed_page import ParsedPage
from tests.report.sample_run import write_sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
]
# Writes into the outer page what was laid out: the width that the content takes, what sticks out of
# the window (outside of boxes that scroll by themselves), and the height of each section.
MEASURE = """<script>
addEventListener("load", () => {
  const root = document.documentElement, wide = root.clientWidth;
  const told = parent.document.documentElement.dataset;
  const out = [...document.querySelectorAll("body *")].filter(
    (e) => !e.closest(".box, pre") && e.getBoundingClientRect().right > wide + 0.5);
  told.window = innerWidth;
  told.content = root.scrollWidth;
  told.out = out.map((e) => e.tagName + "." + e.className).join(" ");
  told.heights = [...document.querySelectorAll("section")].map(
    (e) => e.id + ":" + Math.round(e.getBoundingClientRect().height)).join(" ");
  told.pictures = [...document.querySelectorAll("svg")].filter(
    (e) => e.getBoundingClientRect().width > 250).length;
  document.querySelectorAll("details").forEach((e) => e.open = true);
  told.unfolded = root.scrollWidth;
});
</script>"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
]


def browse(url, profile, *flags):
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, url]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    return done.stdout.decode()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report with a name, a budget and a path longer than a phone is wide."""
    workdir = write_sample(tmp_path_factory.mktemp("runs") / ("a_long_name_" * 8))
    (workdir / "search" / f"{'profile_' * 12}.jsonl").write_text("")
    return write_report(workdir)


@pytest.mark.parametrize("width", [1280, 390])
def test_every_section_is_laid_out_within_the_window(report, tmp_path, width):
    text = report.read_text(encoding="utf-8")
    inner = html.escape(text.replace("</body>", f"{MEASURE}</body>"))
    # In a frame, because Chromium makes no window of less than 500 pixels.
    frame = f'<iframe style="border: 0" width="{width}" height="900" srcdoc="{inner}"></iframe>'
    outer = tmp_path / "outer.html"
    outer.write_text(f"<!DOCTYPE html><body>{frame}</body>", encoding="utf-8")
    page = browse(outer.as_uri(), tmp_path / "profile", "--window-size=1400,1000", "--dump-dom")
    found = next(about for name, about in ParsedPage(page).elements if name == "html")
    assert int(found["data-window"]) == width
    assert int(found["data-content"]) <= width
    assert int(found["data-unfolded"]) <= width
    assert found["data-out"] == ""
    heights = dict(item.split(":") for item in found["data-heights"].split())
    assert list(heights) == [section.id for section in SECTIONS]
    assert all(int(height) > 80 for height in heights.values())
    assert int(found["data-pictures"]) == text.count("<svg") > 10


@pytest.mark.parametrize("width", [1280, 390])
def test_a_screenshot_shows_something(report, tmp_path, width):
    path = tmp_path / f"{width}.png"
    window = f"--window-size={width},4000"
    browse(report.as_uri(), tmp_path / "profile", window, f"--screenshot={path}")
    picture = cv2.imread(str(path))
    assert picture.shape == (4000, width, 3)
    assert all(part.std() > 5 for part in (picture[:1000], picture[1000:2000], picture[2000:3000]))

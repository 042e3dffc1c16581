"""The report: every section and number at its place, self-contained, sound whatever it reads."""

import json
import math
import re
import subprocess
import sys
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfquant_jax.report import charts, page, timelines
from rfquant_jax.report.markup import tag
from rfquant_jax.report.page import SECTIONS, write_report
from rfquant_jax.report.run_files import RunFiles
from rfquant_jax.report.sections import asked
from rfquant_jax.report.sections.classes import MOST_CLASSES, classes
from rfquant_jax.report.sections.files import files
from rfquant_jax.report.sections.interference import interference
from tests.report import sample_run
from tests.report.parsed_page import ParsedPage
from tests.report.sample_run import JSON_FILES, write_sample

IDS = [
    "asked",
    "results",
    "frontier",
    "bits",
    "sensitivities",
    "training",
    "interference",
    "freezes",
    "surrogate",
    "classes",
    "files",
    "use",
]
# Which sections show a file, and so must say that it is missing.
USERS = {
    "config.json": ["asked"],
    "results.json": ["results", "classes"],
    "frontier.json": ["frontier"],
    "sensitivity.json": ["sensitivities"],
    "surrogate.json": ["surrogate"],
    "metrics.jsonl": ["training", "interference", "freezes"],
}
# Those that need not be there: the page shows less, and says nothing.
OPTIONAL = ["export.json", *sample_run.SEARCHES]
SCRIPT = "<script>x()</script>"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample") / "my run")


@pytest.fixture(scope="module")
def text(sample):
    return write_report(sample).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return ParsedPage(text)


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the pictures out, which take most of the time."""
    for module in (charts, timelines):
        monkeypatch.setattr(module, "draw", lambda name, paint, **about: tag("figure", name))


def test_every_section_is_there_with_its_heading_and_a_link_to_it(parsed):
    assert [s for s in parsed.sections if s] == IDS == [s.id for s in SECTIONS]
    assert [parsed.sections[s.id].title for s in SECTIONS] == [s.title for s in SECTIONS]
    links = [a["href"] for name, a in parsed.elements if name == "a"]
    assert links[: len(IDS)] == [f"#{name}" for name in IDS]
    assert not [note for section in parsed.sections.values() for note in section.notes]


def test_the_page_names_itself_its_language_and_its_run(parsed):
    assert ("html", {"lang": "en"}) in parsed.elements
    assert parsed.text_of("title") == "my run: mixed-precision report"
    assert parsed.text_of("h1") == "my run"
    assert "mobilenetv2_digits on digits" in parsed.sections[""].text


def test_nothing_is_loaded_from_anywhere(text, parsed):
    assert not re.search(r"https?:|//[a-z]|@import|file:", text)
    assert not {"script", "link", "img", "iframe", "object"} & {name for name, _ in parsed.elements}
    assert not re.findall(r"url\((?!#)", text)
    outward = [a["href"] for _, a in parsed.elements if "href" in a]
    assert all(href.startswith(("#", "./")) for href in outward)


def test_ids_are_unique_and_every_reference_has_its_target(text, parsed):
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    referenced = [a["href"][1:] for _, a in parsed.elements if a.get("href", "").startswith("#")]
    referenced += re.findall(r"url\(#([^)]*)\)", text)
    referenced += [a["aria-labelledby"] for _, a in parsed.elements if "aria-labelledby" in a]
    assert set(referenced) <= set(ids)


def test_links_to_files_lead_to_them(sample, parsed):
    linked = [a["href"] for _, a in parsed.elements if a.get("href", "").startswith("./")]
    assert "./search/1.15xw2a2.json" in linked
    assert all((sample / href).exists() for href in linked)


def test_what_was_asked(parsed):
    asked = parsed.sections["asked"].text
    assert "python launch.py --config=configs/quickstart.py --config.seed=0" in asked
    for expected in (
        "mobilenetv2_digits (width = 0.5)",
        "1*w4a4, 1.15*w2a2, 0.013MB",
        "6, 5, 4, 3, 2",
        "25 % of the training images",
        "15 epochs, 64 images a step",
        "12 epochs, 80 images a step",
        "at least 3 bits",
        "search.metric = 'divergence'",
    ):
        assert expected in asked


def test_the_results_table(parsed):
    by_budget, everything = parsed.sections["results"].tables
    assert by_budget[1:] == [
        [
            "1*w4a4",
            "w4a4 97.4 [96.1, 98.7]",
            "searched 97.8 [96.6, 99.0]",
            "over w4a4 +0.4 [-0.5, +1.3] cannot be told apart",
            "over w4a4 -0.0037 [-0.0118, +0.0044] cannot be told apart",
            "over w5a3 +0.2 [-0.6, +1.0] cannot be told apart",
            "0.0319 GBitOPs 0.0271 MB",
        ],
        [
            "1.15*w2a2",
            "w2a2 85.6 [82.5, 88.7]",
            "searched 96.2 [94.5, 97.9]",
            "over w2a2 +10.6 [+7.8, +13.4] ▲ better",
            "over w2a2 -0.3159 [-0.3863, -0.2455] ▲ better",
            "over w3a2 +5.4 [+3.1, +7.7] ▲ better",
            "0.0118 GBitOPs 0.0166 MB",
        ],
        [
            "0.013MB",
            "none fits",
            "searched 84.2 [81.0, 87.4]",
            "-",
            "-",
            "-",
            "0.0147 GBitOPs 0.0128 MB",
        ],
    ]
    assert everything[1] == ["full precision", "-", "-", "98.6", "-", "99.9", "0.0613", "-"]
    w2a2 = ["0.0103", "0.0152", "85.6", "[82.5, 88.7]", "99.7", "0.4481", "500"]
    assert everything[4] == ["uniform w2a2", *w2a2]
    assert len(everything) == 1 + 1 + 5


def test_the_figures_at_the_top(parsed):
    top = parsed.sections[""].text
    assert "98.6 %500 test images" in top
    assert "+10.6points [+7.8, +13.4], 1.15*w2a2 over w2a2" in top
    assert "1 of 3in top-1" in top


def test_the_frontier(parsed):
    section = parsed.sections["frontier"]
    (table,) = section.tables
    assert len(table) == 1 + 30 + 5
    # 0.9 exp(-0.14 * 3) = 0.59134, times 1.08 = 0.638649; 99 - 14 exp(-1.8) = 96.686
    assert table[4][3:6] == ["0.5913", "0.6386", "96.7"]
    assert table[5][4:] == ["-", "-", "-"]
    assert table[31] == ["uniform w2a2", "0.0103", "0.0152", "-", "-", "86.1", "[82.4, 89.8]"]
    assert len(section.pictures) == 2


def test_bits_of_each_layer(parsed):
    (table,) = parsed.sections["bits"].tables
    assert table[0] == [
        "layer",
        "1*w4a4 0.0319 GBitOPs",
        "1.15*w2a2 0.0118 GBitOPs",
        "0.013MB 0.0147 GBitOPs",
    ]
    assert table[1] == ["w", "a"] * 3
    assert table[2] == ["blocks.0.expand", "4", "4", "2", "3", "2", "4"]
    # the second layer is depthwise: 2 becomes 3
    assert table[3] == ["blocks.0.depthwise", "5", "3", "3", "3", "3", "3"]
    # weights of the first: 4 5 4 5 4 5 4 5 4, activations: 4 3 5 three times
    assert table[-1][:3] == ["mean", "4.4", "4.0"]
    assert len(table) == 2 + 9 + 1


def test_sensitivities(parsed):
    (table,) = parsed.sections["sensitivities"].tables
    assert table[0] == ["layer", "weights: bits", "activations: bits"]
    assert table[1] == ["6", "5", "4", "3", "2"] * 2
    # 0.11 * (2^(5 - b) - 1) and 0.07 * the same
    weights = ["-0.06", "0.00", "+0.11", "+0.33", "+0.77"]
    assert table[2] == ["blocks.0.expand", *weights, "-0.04", "0.00", "+0.07", "+0.21", "+0.49"]
    assert table[3][5] == ""  # depthwise layers have no 2 bits
    assert "growth of the log divergence" in parsed.sections["sensitivities"].text.lower()
    assert "all other layers run at w5a5" in parsed.sections["sensitivities"].text


def test_training_curves_and_freezes(parsed):
    training = parsed.sections["training"]
    assert training.pictures == [
        "Full-precision training: loss over steps",
        "Full-precision training: held-out top-1 (%) over steps",
        "Full-precision training: learning rate over steps",
        "Coupled training: loss over steps",
        "Coupled training: held-out top-1 (%) over steps",
        "Coupled training: learning rate over steps",
    ]
    assert "at the end: full precision 97.20 %" in training.text
    assert "at the end: mean of the levels 90.00 %" in training.text
    freezes = parsed.sections["freezes"]
    assert len(freezes.pictures) == 1
    assert "fired 3 times in 12 epochs" in freezes.text
    assert all(layer in freezes.text for layer in sample_run.LAYERS)


def test_interference_over_time(parsed):
    section = parsed.sections["interference"]
    assert section.pictures == [
        "Interference: loss over steps",
        "Interference: held-out top-1 (%) over steps",
        "Interference: weights near a boundary (%) over steps",
        "Interference: frozen layers over steps",
    ]
    assert "at the end: w6a6 98.80 %, w2a2 84.50 %" in section.text
    assert "random configurations (mean), the smallest configuration." in section.text
    assert "Uniformly distributed weights would have 25 %" in section.text
    # Two, then one of them released and another frozen, then it is frozen again.
    assert "at most 3, at the end 3" in section.text


def test_the_curves_of_interference_have_the_recorded_values(sample, monkeypatch):
    drawn = {}
    monkeypatch.setattr(
        timelines, "curves", lambda name, found, **about: drawn.setdefault(name, found) and "x"
    )
    interference(RunFiles(sample))
    loss = drawn["interference-loss"]
    assert {name: len(points) for name, points in loss.items()} == {
        "largest": 36,
        "random": 36,
        "smallest": 18,
    }
    assert loss["smallest"][0] == (10.0, pytest.approx(2.0 * math.exp(-0.2)))
    assert drawn["interference-held-out-top"]["w2a2"] == [(60, 81.5), (120, 83.0), (180, 84.5)]
    near = drawn["interference-weights-near-a-boundary"]
    # Layers 0 to 8 have 1 % less each, 4 % less in the mean; 1, 4 and 7 have no 2 bits, nor does
    # the mean of the others change.
    assert near["6 bits"] == [(step, pytest.approx(56 + step / 100)) for step in (60, 120, 180)]
    assert near["2 bits"] == [(step, pytest.approx(16 + step / 100)) for step in (60, 120, 180)]
    assert drawn["interference-frozen-layers"]["frozen layers"] == [
        (0, 0),
        (46, 0),
        (46, 2),
        (76, 2),
        (76, 2),
        (136, 2),
        (136, 3),
        (180, 3),
    ]


def test_bit_widths_sampled_and_weights_near_a_boundary(parsed):
    sampled, near = parsed.sections["interference"].tables
    assert sampled[0] == ["layer", "weights: bits", "activations: bits"]
    assert sampled[1] == ["6", "5", "4", "3", "2"] * 2
    # Of three records of 200 passes each: 20 of 200 are 10 %.
    assert " ".join(sampled[2]) == "blocks.0.expand 10 15 20 25 30 30 25 20 15 10"
    assert " ".join(sampled[3]) == "blocks.0.depthwise 10 15 20 55  30 25 20 25 "
    assert "of the 600 passes" in parsed.sections["interference"].text
    assert near[0] == ["layer", "step"]
    assert near[1] == ["60", "120", "180"]
    # At 2 bits 20 % and 0.6, 1.2, 1.8 % more; the next layer 1 % less than 30 %: it stops at 3.
    assert near[2] == ["blocks.0.expand", "21", "21", "22"]
    assert near[3] == ["blocks.0.depthwise", "30", "30", "31"]


def test_of_many_evaluations_eight_are_shown(tmp_path):
    records = [{"task": "train", **sample_run.interference(s), "step": s} for s in range(10, 300)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, records)))
    table = ParsedPage(interference(RunFiles(tmp_path))).sections[""].tables[1]
    # 290 records: every 289 / 7 = 41.3 of them, the first and the last among them.
    assert table[1] == ["10", "51", "93", "134", "175", "216", "258", "299"]


def test_a_training_without_records_of_interference_shows_its_losses(tmp_path):
    lines = [line for line in sample_run.metrics() if "event" not in line]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    section = ParsedPage(interference(RunFiles(tmp_path))).sections[""]
    assert len(section.pictures) == 2
    assert not section.tables


def test_quality_of_the_surrogate(parsed):
    surrogate = parsed.sections["surrogate"]
    assert "R²0.914rank correlation0.943configurations in the profile300" in surrogate.text
    assert "held out for this figure60ridge strength0.0316" in surrogate.text
    assert len(surrogate.pictures) == 1


def test_accuracy_per_class(parsed):
    (table,) = parsed.sections["classes"].tables
    assert table[0] == ["class", "1*w4a4", "1.15*w2a2", "0.013MB"]
    assert table[1] == ["top-1", "difference"] * 3
    # class 3 is 6 points below the mean of 97.8, 96.2 and 84.2
    assert table[5] == ["digit 3", "91.8", "+0.4", "90.2", "+10.6", "78.2", "-"]
    assert len(table) == 2 + 10


def test_files_written(parsed, sample):
    listed, exported = parsed.sections["files"].tables
    found = {row[0]: row[1:] for row in listed[1:]}
    assert found["checkpoints/"] == ["weights, step sizes, statistics (3 files)", "6.0 KB"]
    assert found["export/1.15xw2a2.safetensors"][1] == "15.8 KB"
    assert found["search/profile.jsonl"][1] == "900 B"
    assert not {"lock", "report.html"} & found.keys()
    written = {p.relative_to(sample).as_posix() for p in sample.rglob("*") if p.is_file()}
    folded = {name for name in written if name.startswith("checkpoints/")}
    assert found.keys() == written - folded - {"lock", "report.html"} | {"checkpoints/"}
    name = "export/1.15xw2a2.safetensors"
    assert exported[1] == [name, "integer", "15.8 KB", "4.97", "95.7", "100.00", "yes"]


def test_a_folder_of_many_files_is_one_line(tmp_path):
    (tmp_path / "evaluations").mkdir()
    for i in range(50):
        (tmp_path / "evaluations" / f"{i}.json").write_text("12345")
    found = ParsedPage(files(RunFiles(tmp_path))).sections[""].tables[0]
    meaning = "single configurations on the test images (50 files)"
    assert found[1:] == [["evaluations/", meaning, "250 B"]]


def test_a_run_of_before_has_no_gains_and_is_shown_without(tmp_path):
    rows = [
        {key: value for key, value in row.items() if "gain" not in key and "class" not in key}
        for row in sample_run.RESULTS["rows"]
    ]
    content = {"full_precision": None, "rows": rows}
    (tmp_path / "results.json").write_text(json.dumps(content))
    run = RunFiles(tmp_path)
    table = ParsedPage(page._section(run, SECTIONS[1])).sections["results"].tables[0]
    assert table[1][1:] == ["-", "searched 97.8 [96.6, 99.0]", "-", "-", "-", table[1][-1]]


def test_of_many_classes_the_worst_are_shown(tmp_path):
    accuracies = [90.0] * 100
    for i in range(MOST_CLASSES):
        accuracies[2 * i] = 50.0 + i
    accuracies[0] = None  # there is no image of this class
    row = sample_run.row("searched", "1G", 1.0, 1.0, 80.0, 1.0, 0.5, top1_by_class=accuracies)
    names = [f"name {i}" for i in range(100)]
    content = {"class_names": names, "rows": [row]}
    (tmp_path / "results.json").write_text(json.dumps(content))
    section = ParsedPage(classes(RunFiles(tmp_path))).sections[""]
    shown = [cells[0] for cells in section.tables[0][2:]]
    # 39 of the even ones, and of the others, which are equal, the first
    assert shown == ["name 1", *(f"name {2 * i}" for i in range(1, MOST_CLASSES))]
    assert f"Shown are the {MOST_CLASSES} of 100 classes" in section.text


def test_how_to_use_a_result(parsed, sample):
    use = parsed.sections["use"].text
    assert f"--config.configuration={sample}/search/1xw4a4.json" in use.replace("'", "")
    for task in ("cost", "evaluate", "predict", "export"):
        assert f"--config.tasks={task}" in use
    assert "search/1.15xw2a2.json, search/0.013MB.json" in use


@pytest.mark.parametrize("name", [*USERS, *OPTIONAL])
def test_a_missing_file_leaves_a_line_where_it_is_shown(tmp_path, name, undrawn):
    workdir = write_sample(tmp_path)
    (workdir / name).unlink()
    found = ParsedPage(write_report(workdir).read_text(encoding="utf-8"))
    assert [s for s in found.sections if s] == IDS
    said = {key: section.notes for key, section in found.sections.items() if section.notes}
    if name in OPTIONAL:
        assert not said
        return
    assert list(said) == USERS[name]
    assert all(notes[0].startswith(f"There is no {name}: ") for notes in said.values())


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1, 2]", b"{}", b'{"a": 1, "a": 2}', b"\xff\xfe\x00", b"[" * 100_000]
)
@pytest.mark.parametrize("name", [name for name in USERS if name.endswith(".json")])
def test_a_damaged_file_leaves_a_line_where_it_is_shown(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    run = RunFiles(tmp_path)
    for section in SECTIONS:
        if section.id not in USERS[name]:
            continue
        found = ParsedPage(page._section(run, section)).sections[section.id]
        if content == b"{}" and name in ("config.json", "surrogate.json"):
            continue  # has all fields that it must have: none
        assert found.notes, section.id
        assert found.notes[0].startswith(name)


def test_a_workdir_without_anything_has_a_report(tmp_path):
    found = ParsedPage(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [key for key, section in found.sections.items() if section.notes] == [
        name for name in IDS if name != "files"
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_lines_of_metrics_that_a_kill_cut_short_are_left_out(tmp_path):
    workdir = write_sample(tmp_path)
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('[1]\n{"task": "train", "step": 185, "loss": NaN}\n{"task": "train", "st')
    found = ParsedPage(write_report(workdir).read_text(encoding="utf-8"))
    assert not found.sections["training"].notes
    assert len(found.sections["training"].pictures) == 6


def test_what_users_name_is_escaped(tmp_path):
    workdir = write_sample(tmp_path / "<script>run")
    (workdir / "search" / "<script>.jsonl").write_text("")
    for name, content in JSON_FILES.items():
        (workdir / name).write_text(json.dumps(with_scripts(content)))
    lines = [json.dumps(with_scripts(line)) for line in sample_run.metrics()]
    (workdir / "metrics.jsonl").write_text("\n".join(lines))
    text = write_report(workdir).read_text(encoding="utf-8")
    found = ParsedPage(text)
    assert "script" not in {name for name, _ in found.elements}
    assert not re.search(r"<script", text, re.IGNORECASE)
    assert not [note for section in found.sections.values() for note in section.notes]
    for name in {*IDS} - {"frontier", "training", "surrogate", "files"}:
        assert SCRIPT in found.sections[name].text, name
    assert "<script>run" in found.text_of("title")
    assert "search/<script>.jsonl" in found.sections["files"].text
    linked = [a["href"] for _, a in found.elements if "script" in a.get("href", "").lower()]
    assert [(workdir / unquote(href)).is_file() for href in linked] == [True]


def with_scripts(content):
    """A copy with a script behind every name that a user can choose."""
    text = json.dumps(content)
    chosen = [*sample_run.LAYERS, *sample_run.CLASS_NAMES, "mobilenetv2_digits", "0.013MB"]
    for name in [*chosen, "1*w4a4", "1.15*w2a2", "configs/quickstart.py"]:
        text = text.replace(f'"{name}"', f'"{name}{SCRIPT}"')
    budgets = json.dumps("1*w4a4, 1.15*w2a2,0.013MB")
    return json.loads(text.replace(budgets, json.dumps(f"1*w4a4{SCRIPT},1.15*w2a2,0.013MB")))


def test_other_writing_systems_and_dollars_are_shown(tmp_path):
    workdir = write_sample(tmp_path)
    content = json.dumps(sample_run.RESULTS).replace("1*w4a4", "$\\\\frac 予算$")
    (workdir / "results.json").write_text(content)
    found = ParsedPage(write_report(workdir).read_text(encoding="utf-8"))
    assert not found.sections["results"].notes
    assert found.sections["results"].text.count("$\\frac 予算$") == 3  # two tables and a picture


NODES = st.sampled_from(
    [None, True, [], {}, [[]], "x", "", "2", 0, -1, 3.5, 1e308, -1e-320, float("nan"), 10**400]
)


@given(data=st.data())
def test_no_content_of_a_file_is_an_exception(tmp_path_factory, data):
    name = data.draw(st.sampled_from([*JSON_FILES, "metrics.jsonl"]))
    workdir = tmp_path_factory.mktemp("damaged")
    lines = list(sample_run.metrics()) if name == "metrics.jsonl" else None
    content = replaced(lines or JSON_FILES[name], data)
    for other in {"config.json", "search/1xw4a4.json", name}:
        (workdir / other).parent.mkdir(exist_ok=True)
        (workdir / other).write_text(json.dumps(JSON_FILES.get(other)))
    text = "\n".join(map(json.dumps, content)) if lines else json.dumps(content)
    (workdir / name).write_text(text)
    run = RunFiles(workdir)
    ParsedPage(page._header(run, "damaged"))
    for section in SECTIONS:
        if name.startswith("search") or section.id in USERS.get(name, IDS):
            ParsedPage(page._section(run, section))


def replaced(content, data):
    """A copy with one node, anywhere in it, replaced by something else."""
    content = json.loads(json.dumps(content))
    node = content
    while True:
        key = data.draw(
            st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node)))
        )
        if (
            not isinstance(node[key], dict | list)
            or not node[key]
            or data.draw(st.integers(0, 3)) == 0
        ):
            node[key] = data.draw(NODES)
            return content
        node = node[key]


def test_writing_again_replaces_the_page_in_one_go(tmp_path, undrawn):
    workdir = write_sample(tmp_path)
    (workdir / "report.html").write_text("old")
    first = write_report(workdir).read_text(encoding="utf-8")
    assert first.startswith("<!DOCTYPE html>")
    again = write_report(workdir).read_text(encoding="utf-8")
    without_date = [re.sub(r"Written on [^.]*", "", text) for text in (first, again)]
    assert without_date[0] == without_date[1]
    assert not list(workdir.glob("*.tmp"))


def test_importing_the_report_does_not_load_matplotlib():
    code = (
        "import sys, rfquant_jax.report.page; "
        "sys.exit(any(name.split('.')[0] == 'matplotlib' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["launch.py", "--config=a/b.py", "--config.seed=1"], "a/b.py"),
        (["rfquant", "--config", "c.py"], "c.py"),
        (["launch.py", "--config.seed=1"], "the quickstart"),
        ([], "not recorded"),
    ],
)
def test_the_recipe_of_a_run_is_that_of_its_command(arguments, shown):
    assert shown in str(asked._recipe(arguments))

"""A workdir as a finished run leaves it, with invented numbers, for tests of the report.

The network has an expansion, a depthwise and a projection layer in each of three blocks. Numbers
are picked so that each is found once on the page, and so that of the three budgets one is better
than uniform, one cannot be told apart from it, and one has no uniform configuration within it.
"""

import json
import math

LAYERS = tuple(
    f"blocks.{b}.{kind}" for b in range(3) for kind in ("expand", "depthwise", "project")
)
CLASS_NAMES = [f"digit {i}" for i in range(10)]
EPOCHS, STEPS = 12, 180

CONFIG = {
    "tasks": ["pretrain", "train", "search", "evaluate"],
    "seed": 0,
    "precision": "float32",
    "model": {"name": "mobilenetv2_digits", "options": {"width": 0.5}},
    "data": {"name": "digits", "image_size": 0, "search_fraction": 0.25},
    "quant": {"candidates": [6, 5, 4, 3, 2], "depthwise_min_bits": 3, "fixed_bits": 8},
    "pretrain": {"epochs": 15, "batch_size": 64},
    "train": {"epochs": EPOCHS, "batch_size": 80},
    "scheduler": {"boundary": 0.25},
    "search": {
        "budgets": "1*w4a4, 1.15*w2a2,0.013MB",
        "algorithm": "integer",
        "metric": "divergence",
    },
}

COMMAND = {
    "arguments": ["launch.py", "--config=configs/quickstart.py", "--config.seed=0"],
}


def by_class(mean):
    """Ten percentages around a mean, class 3 the worst."""
    return [mean + (1.5, 0.5, -0.5, -6.0, 1.0, 1.5, 0.0, 0.5, 1.0, 0.5)[i] for i in range(10)]


def row(kind, name, bitops, size, top1, half, entropy, **more):
    return {
        "kind": kind,
        "name": name,
        "budget_g": None,
        "budget_mb": None,
        "bitops_g": bitops,
        "size_mb": size,
        "top1": top1,
        "top1_interval": [top1 - half, top1 + half],
        "top5": 99.7,
        "cross_entropy": entropy,
        "images": 500,
        "top1_by_class": by_class(top1),
        **more,
    }


def gain(over, top1, half, entropy, entropy_half):
    return {
        "over": over,
        "top1": top1,
        "top1_interval": [top1 - half, top1 + half],
        "cross_entropy": entropy,
        "cross_entropy_interval": [entropy - entropy_half, entropy + entropy_half],
    }


RESULTS = {
    "full_precision": {"top1": 98.6, "top5": 99.9, "cross_entropy": 0.0613},
    "class_names": CLASS_NAMES,
    "rows": [
        row("uniform", "w4a4", 0.0321, 0.0287, 97.4, 1.3, 0.0914),
        row(
            "searched",
            "1*w4a4",
            0.0319,
            0.0271,
            97.8,
            1.2,
            0.0877,
            budget="1*w4a4",
            gain=gain("w4a4", 0.4, 0.9, -0.0037, 0.0081),
            gain_pair=gain("w5a3", 0.2, 0.8, -0.0012, 0.0064),
        ),
        row("uniform", "w2a2", 0.0103, 0.0152, 85.6, 3.1, 0.4481),
        row(
            "searched",
            "1.15*w2a2",
            0.0118,
            0.0166,
            96.2,
            1.7,
            0.1322,
            budget="1.15*w2a2",
            gain=gain("w2a2", 10.6, 2.8, -0.3159, 0.0704),
            gain_pair=gain("w3a2", 5.4, 2.3, -0.1483, 0.0522),
        ),
        row(
            "searched",
            "0.013MB",
            0.0147,
            0.0128,
            84.2,
            3.2,
            0.4903,
            budget="0.013MB",
            gain=None,
            gain_pair=None,
        ),
    ],
    "checkpoints": {"train": "checkpoints/train/180 sha256:0123"},
    "images": {"number": 500, "version": "1"},
}


def layers(weight_bits, activation_bits):
    """A configuration: bits by position, depthwise layers never below 3."""
    found = {}
    for i, name in enumerate(LAYERS):
        least = 3 if name.endswith("depthwise") else 2
        w = max(weight_bits[i % len(weight_bits)], least)
        a = max(activation_bits[i % len(activation_bits)], least)
        found[name] = [w, a]
    return found


def confirmed(top1, half):
    return {
        "top1": top1,
        "top1_interval": [top1 - half, min(top1 + half, 100.0)],
        "cross_entropy": 0.2,
        "images": 324,
    }


def search(budget, configuration, bitops, size, top1):
    return {
        "layers": configuration,
        "bitops_g": bitops,
        "size_mb": size,
        "budget": budget,
        "budget_g": bitops,
        "budget_mb": None,
        "source": "trust region",
        "checkpoint": "checkpoints/train/180 sha256:0123",
        "confirmed": {"trust region": confirmed(top1, 2.1), "uniform w2a2": confirmed(86.1, 3.7)},
        "gain": gain("w2a2", 9.9, 3.0, -0.3, 0.1),
        "gain_pair": None,
        "distinguishable": True,
        "evaluations": 58,
        "profile": {"length": 300, "sha256": "ab" * 32},
        "trace": [],
    }


SEARCHES = {
    "search/1xw4a4.json": search("1*w4a4", layers((4, 5), (4, 3, 5)), 0.0319, 0.0271, 97.2),
    "search/1.15xw2a2.json": search("1.15*w2a2", layers((2, 3), (3, 2, 2)), 0.0118, 0.0166, 95.7),
    "search/0.013MB.json": search("0.013MB", layers((2,), (4, 2, 3)), 0.0147, 0.0128, 84.6),
}


def frontier_point(i):
    cost = 0.0098 * 1.07**i
    divergence = 0.9 * math.exp(-0.14 * i)
    shown = confirmed(99.0 - 14.0 * math.exp(-0.6 * i), 0.5 + 3.0 * math.exp(-0.1 * i))
    return {
        "budget": f"{cost:.4g}G",
        "layers": layers((2 + i // 8,), (2 + i // 8,)),
        "bitops_g": cost,
        "size_mb": 0.0151 * 1.04**i,
        "predicted_divergence": divergence,
        "divergence": divergence * 1.08 if i % 3 == 0 else None,
        "confirmed": shown if i % 3 == 0 else None,
    }


FRONTIER = {
    "checkpoint": "checkpoints/train/180 sha256:0123",
    "cost": "bitops_g",
    "points": [frontier_point(i) for i in range(30)],
    "uniform": [
        {"name": f"w{b}a{b}", "bitops_g": g, "size_mb": m, "confirmed": confirmed(top1, half)}
        for b, g, m, top1, half in (
            (2, 0.0103, 0.0152, 86.1, 3.7),
            (3, 0.0182, 0.0219, 95.4, 2.2),
            (4, 0.0321, 0.0287, 97.5, 1.6),
            (5, 0.0498, 0.0355, 98.1, 1.4),
            (6, 0.0713, 0.0423, 98.8, 1.1),
        )
    ],
}


def growth(scale):
    found = {}
    for i, name in enumerate(LAYERS):
        bits = (6, 5, 4, 3) if name.endswith("depthwise") else (6, 5, 4, 3, 2)
        step = scale * (1 + 0.4 * (i % 4))
        found[name] = {str(b): round(step * (2.0 ** (5 - b) - 1), 3) for b in bits}
    return found


SENSITIVITY = {
    "checkpoint": "checkpoints/train/180 sha256:0123",
    "base": {name: [5, 5] for name in LAYERS},
    "unit": "log divergence",
    "growth": {"weights": growth(0.11), "activations": growth(0.07)},
}

SURROGATE = {
    "checkpoint": "checkpoints/train/180 sha256:0123",
    "r2": 0.914,
    "rank_correlation": 0.943,
    "strength": 0.0316,
    "configurations": 300,
    "held_out": [[-4 + 0.06 * i, -3.9 + 0.058 * i + 0.35 * math.sin(7.0 * i)] for i in range(60)],
}

EXPORT = {
    "checkpoint": "checkpoints/train/180 sha256:0123",
    "float32_bytes": 80584,
    "configurations": {
        "1.15xw2a2": {
            "verified": True,
            "formats": {
                "integer": {
                    "file": "export/1.15xw2a2.safetensors",
                    "bytes": 16200,
                    "ratio": 4.97,
                    "images": 324,
                    "top1": 95.7,
                    "equal_percent": 100.0,
                },
            },
        }
    },
}


def interference(step):
    """One of three records, each about 200 passes.

    Weights ran at 6 to 2 bits in 20, 30, 40, 50 and 60 passes (depthwise layers: 60 more at 3
    bits), activations in 60, 50, 40, 30 and 20. At b bits 10 b % of the first layer's weights are
    near a boundary, of each further layer 1 % less; with every 100 steps it is 1 % more.
    """
    bits, deep = (6, 5, 4, 3, 2), [name.endswith("depthwise") for name in LAYERS]
    near = [
        [None if b == 2 and d else 0.1 * b - 0.01 * i + step / 10000 for b in bits]
        for i, d in enumerate(deep)
    ]
    return {
        "event": "interference",
        "bits": list(bits),
        "layers": list(LAYERS),
        "passes": 200,
        "weights": [[20, 30, 40, 110, 0] if d else [20, 30, 40, 50, 60] for d in deep],
        "activations": [[60, 50, 40, 50, 0] if d else [60, 50, 40, 30, 20] for d in deep],
        "near_boundary": near,
        "smallest": [3 if d else 2 for d in deep],
    }


def metrics():
    """Lines of `metrics.jsonl`: both trainings, and firings that freeze, keep and release."""
    for step in range(15, 226, 15):
        values = {"epoch": step // 15 - 1, "loss": 2.5 * math.exp(-step / 40)}
        yield {"task": "pretrain", "step": step, **values, "rate/learning": 0.1 - step / 2500}
    yield {"task": "pretrain", "step": 225, "held_out/full_precision": 97.2, "held_out/mean": 97.2}
    for step in range(5, STEPS + 1, 5):
        epoch = (step - 1) // 15
        loss = 0.4 * math.exp(-step / 50)
        values = {"epoch": epoch, "loss": loss, "random/loss": 3 * loss}
        if step % 10 == 0:  # a smallest pass in half of the steps
            values["smallest/loss"] = 5 * loss
        rates = {"rate/learning": 0.04 - step / 5000, "rate/step_size": 0.001 - step / 190000}
        yield {"task": "train", "step": step, **values, **rates}
        if step % 60 == 0:
            scores = {"held_out/w6a6": 98.8, "held_out/w2a2": 80 + step / 40}
            yield {"task": "train", "step": step, **scores, "held_out/mean": 90.0}
            yield {"task": "train", "step": step, **interference(step)}
    for epoch, changes in (
        (3, [("blocks.0.expand", 2, "frozen"), ("blocks.1.depthwise", 3, "frozen")]),
        (5, [("blocks.0.expand", 2, "released"), ("blocks.2.project", 2, "frozen")]),
        (9, [("blocks.0.expand", 2, "frozen")]),
    ):
        listed = [
            {"layer": layer, "bits": bits, "change": change, "metric": 0.07}
            for layer, bits, change in changes
        ]
        event = {"event": "scheduler", "epoch": epoch, "ratio": 0.3, "changes": listed}
        yield {"task": "train", "step": 15 * epoch + 1, **event}


JSON_FILES = {
    "config.json": CONFIG,
    "command.json": COMMAND,
    "results.json": RESULTS,
    "frontier.json": FRONTIER,
    "sensitivity.json": SENSITIVITY,
    "surrogate.json": SURROGATE,
    "export.json": EXPORT,
} | SEARCHES


def write_sample(workdir):
    """Writes all files of the run into `workdir`; returns it."""
    for name, content in JSON_FILES.items():
        path = workdir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    lines = "".join(json.dumps(line) + "\n" for line in metrics())
    (workdir / "metrics.jsonl").write_text(lines)
    (workdir / "export").mkdir()
    (workdir / "export" / "1.15xw2a2.safetensors").write_bytes(bytes(16200))
    (workdir / "search" / "profile.jsonl").write_text("{}\n" * 300)
    checkpoint = workdir / "checkpoints" / "train" / "180"
    checkpoint.mkdir(parents=True)
    for i in range(3):
        (checkpoint / f"shard{i}").write_bytes(bytes(2048))
    (workdir / "log.txt").write_text("2026-11-28 11:06:14 pretrain: 225 steps\n")
    (workdir / "lock").write_text("{}")
    return workdir

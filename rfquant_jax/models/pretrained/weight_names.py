"""The names of our layers in other libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection

from rfquant_jax.models import mobilenetv2
from rfquant_jax.models.pretrained.state_dict import unwrapped

Rename = Callable[[str], str]
_VALUES = (".value", ".raw_value")

# Indices of the modules of a MobileNetV2 block in our numbering.
_EXPANDED = {"conv_pw": 0, "bn1": 1, "conv_dw": 3, "bn2": 4, "conv_pwl": 6, "bn3": 7}
_PLAIN = {"conv_dw": 0, "bn1": 1, "conv_pw": 3, "bn2": 4}
_ENDS = {"conv_stem": "0.0", "bn1": "0.1", "conv_head": "18.0", "bn2": "18.1"}


def _torchvision_mobilenetv2(name: str) -> str:
    """Maps `features.N.conv.I.J` and `features.N.conv.K` to indices in one list."""
    nested = re.fullmatch(r"(features\.\d+\.conv)\.(\d)\.(\d)\.(\w+)", name)
    if nested:
        block, unit, part, rest = nested.groups()
        return f"{block}.{3 * int(unit) + int(part)}.{rest}"
    flat = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\w+)", name)
    if flat is None:
        return name
    number, place, rest = int(flat[1]), int(flat[2]), flat[3]
    # Behind one nested unit in the block without expansion, behind two in all others.
    first, moved = (1, 3) if number == 1 else (2, 6)
    return f"features.{number}.conv.{place - first + moved}.{rest}"


def _timm_mobilenetv2(name: str) -> str:
    block = re.fullmatch(r"blocks\.(\d+)\.(\d+)\.(\w+)\.(\w+)", name)
    if block:
        stage, index, part, rest = block.groups()
        before = sum(blocks for _, _, blocks, *_ in mobilenetv2.PUBLISHED.stages[: int(stage)])
        places = _EXPANDED if int(stage) else _PLAIN
        return f"features.{1 + before + int(index)}.conv.{places.get(part, part)}.{rest}"
    part, _, rest = name.partition(".")
    if part in _ENDS:
        return f"features.{_ENDS[part]}.{rest}"
    return f"classifier.1.{rest}" if part == "classifier" and "." not in rest else name


_RENAMES: dict[str, tuple[Rename, ...]] = {
    "mobilenetv2": (_torchvision_mobilenetv2, _timm_mobilenetv2)
}


def own_names(names: Collection[str], expected: set[str]) -> dict[str, str]:
    """`{path in the network: name in the file}` of a state by paths joined with dots or slashes.

    Args:
      names: what the file holds.
      expected: dotted paths of what the network has.
    """
    paths = {name.replace("/", "."): name for name in names}
    if all(path.endswith(_VALUES) for path in paths):  # a state of variables, not of arrays
        paths = {path.rpartition(".")[0]: name for path, name in paths.items()}
    candidates = [
        {short: paths[path] for short, path in plain.items()} for plain in unwrapped(list(paths))
    ]
    return max(candidates, key=lambda candidate: len(expected & candidate.keys()))


def renamed(architecture: str, names: Collection[str], expected: set[str]) -> dict[str, str]:
    """`{our name: name in the file}`, by whichever convention fits the file best.

    Args:
      architecture: a key of the registry of networks.
      names: what the file holds.
      expected: what the network has.
    """
    conventions: list[Rename] = [lambda name: name, *_RENAMES.get(architecture, ())]
    candidates = [
        {rename(ours): theirs for ours, theirs in plain.items()}
        for plain in unwrapped(list(names))
        for rename in conventions
    ]
    return max(candidates, key=lambda candidate: len(expected & candidate.keys()))

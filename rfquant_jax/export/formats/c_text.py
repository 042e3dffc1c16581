"""C syntax: identifiers, comments, numbers, arrays."""

from __future__ import annotations

import re

import numpy as np

_COLUMNS = 20  # numbers per line


def identifier(name: str) -> str:
    """The prefix of a model's functions and constants."""
    found = re.sub(r"\W", "_", name, flags=re.ASCII)
    return found if re.match(r"[A-Za-z]", found) else f"model_{found}"


def comment_text(text: str) -> str:
    """Text made safe for a C comment."""
    return text.replace("*/", "* /").replace("/*", "/ *").replace("\\", "/").replace("??", "? ?")


def string(text: str) -> str:
    """A string literal of the text in UTF-8."""
    plain = [
        chr(b) if 32 <= b < 127 and chr(b) not in '"\\?' else f"\\{b:03o}" for b in text.encode()
    ]
    return f'"{"".join(plain)}"'


def number(value: float) -> str:
    """A float32, exactly."""
    text = f"{np.float32(value):.9g}"
    return f"{text}f" if set(text) & set(".en") else f"{text}.0f"


def array(kind: str, name: str, values: np.ndarray) -> str:
    """The definition of a constant array, in C order.

    Args:
      kind: "float" or an integer type.
    """
    flat = np.ravel(values)
    texts = [number(v) if kind == "float" else str(int(v)) for v in flat]
    lines = [",".join(texts[i : i + _COLUMNS]) for i in range(0, len(texts), _COLUMNS)]
    inside = ",\n  ".join(lines)
    return f"static const {kind} {name}[{len(flat)}] = {{\n  {inside}}};"

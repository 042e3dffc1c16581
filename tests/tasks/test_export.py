"""What the task `export` needs."""

import sys

import pytest

from configs import quickstart
from rfquant_jax.errors import ConfigError
from rfquant_jax.tasks import export
from rfquant_jax.tasks.run import Run


@pytest.mark.parametrize("kind", ["onnx", "onnx_small", "onnx_fast", "qonnx"])
def test_onnx_formats_are_refused_without_onnx(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    config = quickstart.get_config()
    config.export.formats = ("integer", kind)
    with pytest.raises(ConfigError, match=r"export\.formats = .*pip install 'rfquant-jax\[onnx\]'"):
        export.check(Run(config, tmp_path), before=())

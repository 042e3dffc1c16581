"""Static StableHLO artifacts in IREE, where it is installed (tests/requirements-runtimes.txt)."""

import jax
import numpy as np
import pytest

import rfquant_jax as rfq
from rfquant_jax.export import files
from rfquant_jax.export.formats import stablehlo
from rfquant_jax.export.ir import runtime
from rfquant_jax.export.ir.fold import fold
from tests.conftest import images
from tests.quant.test_residual import SHAPE, coupled


def iree(module):
    """Compiles a StableHLO module for this processor, and runs one image."""
    compiler = pytest.importorskip("iree.compiler", reason="iree-base-compiler is not installed")
    runner = pytest.importorskip("iree.runtime", reason="iree-base-runtime is not installed")
    options = {"target_backends": ["llvm-cpu"], "input_type": "stablehlo"}
    flags = ["--iree-llvmcpu-target-cpu=host"]
    compiled = compiler.compile_str(str(module), **options, extra_args=flags)
    context = runner.SystemContext(config=runner.Config("local-task"))
    loaded = runner.VmModule.copy_buffer(context.instance, compiled)
    context.add_vm_module(loaded)
    main = getattr(context.modules, loaded.name)["main"]
    return lambda image: np.array(main(image).to_host())  # a copy: IREE reuses the memory


@pytest.mark.slow
@pytest.mark.parametrize("residual_bits", [32, 8])
def test_a_static_artifact_predicts_like_the_integer_runtime(residual_bits, tmp_path, rng):
    x = images(rng, 32)
    made = coupled(x, rfq.QuantConfig(residual_bits=residual_bits))
    rfq.set_bits(made, "w4a3")
    made.network.eval()
    bias = made.network.fc.bias
    bias.set_value(bias[...] - made(x).mean(0))  # or else one class wins everywhere
    model = fold(made.network, SHAPE).stored()
    files.write_one(tmp_path / "m.stablehlo", "stablehlo", "m", model, ("cpu",), batch=1)
    artifact = stablehlo.read(tmp_path / "m.stablehlo")
    assert artifact.in_avals == (jax.core.ShapedArray((1, *SHAPE), np.float32),)
    run, expected = iree(artifact.mlir_module()), runtime.run(model, x)
    found = np.concatenate([run(x[i : i + 1]) for i in range(len(x))])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found.argmax(1), expected.argmax(1))
    assert len(set(expected.argmax(1))) > 1

"""Weights from files: every convention of names, and what does not fit."""

import argparse
import os
import pickle
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from rfquant_jax import models
from rfquant_jax.errors import UserError
from rfquant_jax.models import mobilenetv2
from rfquant_jax.models.pretrained.files import read_weights
from rfquant_jax.models.pretrained.load import load_weights

SHARED = Path(os.environ.get("RFQUANT_SHARED", Path(__file__).resolve().parents[4] / "shared"))


def small(classes=3):
    options = {"width": 2, "projection": True}
    return models.create("cifar_resnet8", num_classes=classes, channels=1, seed=0, options=options)


def norm(name, width, rng):
    parts = ("weight", "bias", "running_mean", "running_var")
    values = {f"{name}.{part}": rng.normal(size=width).astype(np.float32) for part in parts}
    return values | {f"{name}.num_batches_tracked": np.int64(3)}


@pytest.fixture
def weights(rng):
    """A CIFAR ResNet-8 of width 2 as PyTorch names and shapes it, written out by hand."""
    shapes = {"conv1": (2, 1, 3, 3), "linear": (3, 8)}
    norms = {"bn1": 2}
    width_in = 2
    for stage, width in ((1, 2), (2, 4), (3, 8)):
        block = f"layer{stage}.0"
        shapes[f"{block}.conv1"], shapes[f"{block}.conv2"] = (
            (width, width_in, 3, 3),
            (width, width, 3, 3),
        )
        norms[f"{block}.bn1"] = norms[f"{block}.bn2"] = width
        if stage > 1:
            shapes[f"{block}.downsample.0"] = (width, width_in, 1, 1)
            norms[f"{block}.downsample.1"] = width
        width_in = width
    tensors = {f"{n}.weight": rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    tensors["linear.bias"] = rng.normal(size=3).astype(np.float32)
    for name, width in norms.items():
        tensors |= norm(name, width, rng)
    return tensors


def test_every_tensor_finds_its_place_and_layout(weights):
    network = small()
    assert load_weights(network, "cifar_resnet8", weights) == []
    kernel = network.layer2[0].downsample[0].kernel[...]
    assert kernel.shape == (1, 1, 2, 4)
    np.testing.assert_array_equal(
        kernel[0, 0], weights["layer2.0.downsample.0.weight"][..., 0, 0].T
    )
    conv = network.layer3[0].conv1.kernel[...]
    assert conv[2, 0, 3, 5] == weights["layer3.0.conv1.weight"][5, 3, 2, 0]
    np.testing.assert_array_equal(network.linear.kernel[...], weights["linear.weight"].T)
    np.testing.assert_array_equal(network.linear.bias[...], weights["linear.bias"])
    norm = network.layer1[0].bn2
    for ours, theirs in (
        (norm.scale, "weight"),
        (norm.bias, "bias"),
        (norm.mean, "running_mean"),
        (norm.var, "running_var"),
    ):
        np.testing.assert_array_equal(ours[...], weights[f"layer1.0.bn2.{theirs}"])


def test_names_of_data_parallel_training_are_understood(weights):
    load_weights(small(), "cifar_resnet8", {f"module.{n}": t for n, t in weights.items()})


def state(network):
    variables = nnx.to_flat_state(nnx.state(network, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {path: np.asarray(variable[...]) for path, variable in variables}


def test_what_does_not_fit_is_named_and_nothing_is_loaded(weights):
    network = small()
    before = state(network)
    del weights["bn1.bias"]
    weights["extra.weight"] = np.zeros(1)
    weights["layer1.0.conv1.weight"] = np.zeros((2, 2, 5, 5), np.float32)
    with pytest.raises(UserError) as error:
        load_weights(network, "cifar_resnet8", weights)
    assert str(error.value) == (
        "`weights` does not fit cifar_resnet8: missing: bn1.bias; left over: extra.weight; "
        "of another shape: layer1.0.conv1.weight [2, 2, 5, 5] instead of [2, 2, 3, 3]"
    )
    for name, values in state(network).items():
        np.testing.assert_array_equal(values, before[name])


def test_what_cannot_be_weights_is_named(weights):
    network = small()
    before = state(network)
    weights["bn1.bias"] = np.asarray([1.0, np.nan], np.float32)
    weights["bn1.weight"] = np.asarray([1e300, 1.0])  # infinite in float32
    weights["layer1.0.bn1.weight"] = weights["layer1.0.bn1.weight"].astype(np.complex64)
    weights["linear.bias"] = np.arange(3)
    with pytest.raises(UserError) as error:
        load_weights(network, "cifar_resnet8", weights)
    assert str(error.value) == (
        "`weights` does not fit cifar_resnet8: not of floating-point numbers: "
        "layer1.0.bn1.weight complex64, linear.bias int64; "
        "not finite in float32: bn1.bias, bn1.weight"
    )
    for name, values in state(network).items():
        np.testing.assert_array_equal(values, before[name])


def test_names_cannot_write_to_the_terminal(weights):
    weights["\x1b[2J\n"] = np.zeros(1)
    with pytest.raises(UserError, match=r"left over: \\x1b\[2J\\n$"):
        load_weights(small(), "cifar_resnet8", weights)


def test_with_other_classes_the_classifier_alone_is_new(weights):
    network = small(classes=7)
    before = np.asarray(network.linear.kernel[...])
    assert load_weights(network, "cifar_resnet8", weights) == ["linear.bias", "linear.weight"]
    np.testing.assert_array_equal(network.linear.kernel[...], before)
    np.testing.assert_array_equal(network.bn1.mean[...], weights["bn1.running_mean"])
    weights["linear.weight"] = np.zeros((3, 9), np.float32)
    with pytest.raises(UserError, match=r"linear.weight \[3, 9\] instead of \[7, 8\]"):
        load_weights(network, "cifar_resnet8", weights)


def torchvision_names():
    """Convolutions of torchvision's mobilenet_v2 in forward order, each with its BatchNorm."""
    units = [("features.0.0", "features.0.1")]
    for number in range(1, 18):
        block = f"features.{number}.conv"
        nested = 1 if number == 1 else 2
        units += [(f"{block}.{i}.0", f"{block}.{i}.1") for i in range(nested)]
        units.append((f"{block}.{nested}", f"{block}.{nested + 1}"))
    return [*units, ("features.18.0", "features.18.1")], "classifier.1"


def timm_names():
    """The same of timm's mobilenetv2_100."""
    units = [("conv_stem", "bn1")]
    for stage, (expansion, _, blocks, *_) in enumerate(mobilenetv2.PUBLISHED.stages):
        parts = ("conv_dw", "conv_pw") if expansion == 1 else ("conv_pw", "conv_dw", "conv_pwl")
        for index in range(blocks):
            block = f"blocks.{stage}.{index}"
            units += [(f"{block}.{p}", f"{block}.bn{i}") for i, p in enumerate(parts, start=1)]
    return [*units, ("conv_head", "bn2")], "classifier"


@pytest.mark.parametrize("names", [torchvision_names, timm_names])
def test_mobilenetv2_by_either_librarys_names(names):
    network = nnx.eval_shape(models.builder("mobilenetv2", num_classes=4, channels=3, seed=0))
    blocks = network.features
    ours = [tuple(blocks[0])]
    for block in blocks[1:-1]:
        ours += list(zip(block.conv[::3], block.conv[1::3], strict=True))
    ours.append(tuple(blocks[-1]))
    units, classifier = names()
    tensors = {f"{classifier}.weight": np.zeros((4, 1280)), f"{classifier}.bias": np.zeros(4)}
    for number, ((conv, bn), (our_conv, _)) in enumerate(zip(units, ours, strict=True)):
        h, w, i, o = our_conv.kernel.get_value().shape
        tensors[f"{conv}.weight"] = np.full((o, i, h, w), number, np.float32)
        for part in ("weight", "bias", "running_mean", "running_var"):
            tensors[f"{bn}.{part}"] = np.full(o, number + 0.5, np.float32)
    assert load_weights(network, "mobilenetv2", tensors) == []
    # Each convolution and BatchNorm got the values of its own place in the forward order.
    for number, (conv, bn) in enumerate(ours):
        assert float(jnp.max(conv.kernel[...])) == float(jnp.min(conv.kernel[...])) == number
        assert float(jnp.max(bn.mean[...])) == float(jnp.min(bn.scale[...])) == number + 0.5


@pytest.mark.parametrize(
    "wrapper", ["module.", "_orig_mod.module.", "model.backbone.", "module.module."]
)
def test_wrappers_leave_prefixes(weights, wrapper):
    network = small()
    load_weights(network, "cifar_resnet8", {f"{wrapper}{n}": t for n, t in weights.items()})
    np.testing.assert_array_equal(network.bn1.bias[...], weights["bn1.bias"])


@pytest.mark.parametrize("separator", [".", "/"])
def test_our_own_state_is_loaded_in_its_own_layout(separator):
    source, network = small(), small(classes=5)
    flat = nnx.to_flat_state(nnx.state(source, (nnx.Param, nnx.BatchStat)))
    state = {separator.join(map(str, path)): np.asarray(v[...]) + 0.5 for path, v in flat}
    assert load_weights(network, "cifar_resnet8", state) == ["linear.bias", "linear.kernel"]
    expected = np.asarray(source.layer2[0].conv1.kernel[...]) + 0.5
    np.testing.assert_array_equal(network.layer2[0].conv1.kernel[...], expected)
    np.testing.assert_array_equal(network.bn1.var[...], np.asarray(source.bn1.var[...]) + 0.5)
    del state[separator.join(("bn1", "mean"))]
    with pytest.raises(UserError, match=r"missing: bn1\.mean$"):
        load_weights(network, "cifar_resnet8", state)


def test_files_of_every_kind_give_the_same_tensors(weights, tmp_path):
    tensors = {n: np.asarray(t) for n, t in weights.items() if np.ndim(t)}
    np.savez(tmp_path / "w.npz", **tensors)
    save_file(tensors, tmp_path / "w.safetensors")
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.safetensors").read_bytes())
    (tmp_path / "weights").write_bytes((tmp_path / "w.npz").read_bytes())
    for name in ("w.npz", "w.safetensors", "w.bin", "weights"):  # by content, not by name
        found = read_weights(tmp_path / name)
        assert found.keys() == tensors.keys()
        np.testing.assert_array_equal(found["conv1.weight"], tensors["conv1.weight"])


def test_a_pytorch_file_is_read_without_running_what_it_holds(weights, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {n: torch.asarray(t) for n, t in weights.items()}
    torch.save({"state_dict": tensors}, tmp_path / "w.pth")
    np.testing.assert_array_equal(read_weights(tmp_path / "w.pth")["bn1.bias"], weights["bn1.bias"])


def test_a_checkpoint_of_a_training_program_is_read(weights, tmp_path):
    """EMA before other weights; half precision, gradients, arguments and NumPy numbers are read."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {n: torch.asarray(t) for n, t in weights.items()}
    narrow = {n: (t + 1).bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
    narrow["bn1.bias"].requires_grad_()
    content = {
        "model": tensors,
        "state_dict_ema": {f"module.{n}": t for n, t in narrow.items()},
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(71.5),
        "epoch": 3,
    }
    path, said = tmp_path / "model.pth.tar", []
    torch.save(content, path)
    found = read_weights(path, said.append)
    expected = torch.asarray(weights["bn1.bias"] + 1).bfloat16().float().numpy()
    np.testing.assert_array_equal(found["module.bn1.bias"], expected)
    assert said == [
        f"weights: {path}: its 'state_dict_ema', of args, best, epoch, model, state_dict_ema"
    ]


def test_a_pickle_of_another_type_names_it_and_gives_no_unsafe_advice(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({"state_dict": {"a": torch.zeros(1)}, "by": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"contains an object of type pathlib") as error:
        read_weights(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_that_are_no_arrays_and_programs_are_refused_by_name(weights, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensors = {n: torch.asarray(t) for n, t in weights.items()}
    for odd in (torch.eye(2).to_sparse(), torch.zeros(2, device="meta")):
        torch.save(tensors | {"bn1.bias": odd}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"w\.pth: its tensor bn1\.bias is no array \(can't"):
            read_weights(tmp_path / "w.pth")
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
    with pytest.raises(UserError, match=r"w\.pt: is a program of TorchScript: save the state_dict"):
        read_weights(tmp_path / "w.pt")
    torch.save({"model": tensors, "history": np.ones(3)}, tmp_path / "w.pth")
    assert "bn1.bias" in read_weights(tmp_path / "w.pth")


def test_another_librarys_message_is_one_whole_sentence(weights, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save({n: torch.asarray(t) for n, t in weights.items()}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:500])
    with pytest.raises(UserError, match=r"\([^.]*: failed finding central directory\)$"):
        read_weights(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"w\.pth: is empty$"):
        read_weights(tmp_path / "w.pth")


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("harmed",))


@pytest.mark.parametrize("name", ["w.npz", "w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", ["empty", "text", "pickle"])
def test_damaged_and_harmful_files_are_refused_in_one_line(tmp_path, monkeypatch, name, content):
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(
        {"empty": b"", "text": b"weights", "pickle": pickle.dumps(Harmful())}[content]
    )
    with pytest.raises(UserError, match=f"`weights`: {name}") as error:
        read_weights(Path(name))
    assert "\n" not in str(error.value)
    assert not Path("harmed").exists()


def test_an_array_of_objects_is_not_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("w.npz", a=np.asarray([Harmful()], object))
    with pytest.raises(UserError, match="cannot be read"):
        read_weights(Path("w.npz"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [("w.h5", "must be a safetensors, npz or PyTorch"), ("no.npz", "no such file")],
)
def test_other_files_are_refused(tmp_path, name, said):
    (tmp_path / "w.h5").write_text("HDF")
    with pytest.raises(UserError, match=said):
        read_weights(tmp_path / name)


def test_a_real_file_fits(rng):
    path = SHARED / "data" / "resnet20_cifar10.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    network = models.create("cifar_resnet20", num_classes=10, channels=3, seed=0)
    assert load_weights(network, "cifar_resnet20", read_weights(path)) == []

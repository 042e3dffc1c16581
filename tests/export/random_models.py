"""Random small integer models: depthwise, projecting, signed and residual layers."""

import numpy as np
from hypothesis import strategies as st

from rfquant_jax.export.ir.graph import INPUT, Graph, Node
from rfquant_jax.export.ir.model import IntegerModel, LayerData
from rfquant_jax.export.ir.operations import OPERATIONS, RESIDUAL
from rfquant_jax.export.ir.runtime import accumulate, finish, quantize
from rfquant_jax.quant.lsq import FULL_PRECISION

MEAN, STD = 0.5, 0.25  # a pixel's value is then exact in float32, and so is every sum of the stem


class Builder:
    """Adds operations one by one and computes them, so that step sizes fit what they quantize."""

    def __init__(self, seed, shape):
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.pixels = self.rng.integers(0, 256, (3, *shape)).astype(np.uint8)
        # Eighths from -2 to 2: products with whole weights, and their sums, need no rounding.
        self.images = (np.round(self.rng.uniform(-2, 2, (3, *shape)) * 8) / 8).astype(np.float32)
        self.values = {INPUT: self.images}
        self.nodes, self.layers = [], {}

    def op(self, op, *inputs, **attributes):
        name = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(inputs), name, attributes))
        operands = [self.values[x] if isinstance(x, str) else x for x in inputs]
        self.values[name] = OPERATIONS[op].compute(np, operands, attributes)
        return name

    def layer(self, op, x, kernel, bits, input_bits=FULL_PRECISION, signed=False, **attributes):
        rng, name = self.rng, f"v{len(self.nodes)}"
        layer = f"layer.{len(self.layers)}"
        node = Node(op, (x,), name, {"layer": layer, "kernel": list(kernel)} | attributes)
        weights = rng.integers(-(1 << (bits - 1)), 1 << (bits - 1), kernel).astype(np.int8)
        step, ones = 1.0, np.ones(kernel[0])
        if input_bits < FULL_PRECISION:
            high = (1 << (input_bits - signed)) - 1
            step = float(np.float32(max(np.abs(self.values[x]).max(), 1e-3) / high))
            step = float(np.float32(step * rng.uniform(0.7, 1.2)))
        data = LayerData(bits, input_bits, signed, step, weights, ones, 0 * ones)
        sums = accumulate(node, data, quantize(data, self.values[x])).astype(np.float64)
        size = max(float(sums.std()), 1e-3)
        scale = rng.uniform(0.3, 1.5, kernel[0]) * rng.choice([-1, 1], kernel[0]) / size
        bias = rng.normal(0, 0.5, kernel[0])
        data = LayerData(
            bits, input_bits, signed, step, weights, scale.astype("f4"), bias.astype("f4")
        )
        self.nodes.append(node)
        self.layers[layer] = data
        found = accumulate(node, data, quantize(data, self.values[x]))
        self.values[name] = finish(data, found, np.float32)
        return name

    def residual(self, x, y):
        """An addition of two values in 8 bits, which clips the largest ones."""
        name, layer = f"v{len(self.nodes)}", f"layer.{len(self.layers)}"
        node = Node(RESIDUAL, (x, y), name, {"layer": layer})
        largest = max(np.abs(self.values[v]).max() for v in (x, y))
        step = float(np.float32(max(largest, 1e-3) / 127 * self.rng.uniform(0.3, 1.2)))
        scale = np.asarray([step], np.float32)
        data = LayerData(FULL_PRECISION, 8, True, step, None, scale, 0 * scale)
        self.nodes.append(node)
        self.layers[layer] = data
        codes = [quantize(data, self.values[v]) for v in (x, y)]
        self.values[name] = finish(data, accumulate(node, data, *codes), np.float32)
        return name

    def conv(self, x, outputs, size=1, stride=1, groups=1, **options):
        inputs = self.values[x].shape[-1]
        kernel = (outputs, size, size, inputs // groups)
        dilation, low = options.pop("dilation", 1), options.pop("padding", size // 2)
        geometry = {
            "strides": [stride, stride],
            "padding": [[low, low], [low, size // 2]],
            "dilation": [dilation, dilation],
            "groups": groups,
        }
        return self.layer("convolution", x, kernel, **options, **geometry)

    def relu(self, x, most=None):
        x = self.op("maximum", x, 0.0)
        return x if most is None else self.op("minimum", x, float(most))

    def model(self, output):
        graph = Graph(self.shape, tuple(self.nodes), output)
        classes = ["zero", 'a "quoted" one?', "größer\\", "*/"]
        channels = self.shape[-1]
        about = {"mean": [MEAN] * channels, "std": [STD] * channels, "classes": classes}
        model = IntegerModel(graph, self.layers, {}, about)
        model.check()
        return model


@st.composite
def models(draw, largest_bits=6):
    """A model and normalised images for it."""
    bits = st.integers(2, largest_bits)
    channels, size = draw(st.integers(1, 3)), draw(st.integers(5, 9))
    b = Builder(draw(st.integers(0, 2**31)), (size, size + draw(st.integers(0, 2)), channels))
    x = b.conv(INPUT, draw(st.sampled_from([4, 6])), 3, draw(st.integers(1, 2)), bits=8)
    x = b.relu(x, draw(st.sampled_from([None, 6])))
    for _ in range(draw(st.integers(1, 3))):
        x = _block(draw, bits, b, x)
    x = b.op("sum", x, axes=[1, 2])
    x = b.op("divide", x, 9.0)
    signed = bool((b.values[x] < 0).any())
    x = b.layer("dense", x, (4, b.values[x].shape[-1]), 8, 8, signed)
    return b.model(x), b.images


def _block(draw, bits, b, x):
    """A residual block as ResNets have it, or an inverted one; shortcuts need equal shapes."""
    inputs, start = b.values[x].shape[-1], x
    signed = bool((b.values[x] < 0).any())
    stride, most = draw(st.integers(1, 2)), draw(st.sampled_from([None, 6]))
    if draw(st.booleans()):
        hidden = 2 * inputs
        x = b.relu(b.conv(x, hidden, bits=draw(bits), input_bits=draw(bits), signed=signed), most)
        fits = min(b.values[x].shape[1:3]) > 2
        options = {"dilation": draw(st.integers(1, 1 + fits)), "padding": draw(st.integers(1, 2))}
        options |= {"bits": draw(bits), "input_bits": draw(bits)}
        x = b.relu(b.conv(x, hidden, 3, stride, hidden, **options), most)
        outputs = draw(st.sampled_from([inputs, inputs + 2]))
        x = b.conv(x, outputs, bits=draw(bits), input_bits=draw(bits))
        return _sum(draw, b, x, start) if b.values[x].shape == b.values[start].shape else x
    groups = draw(st.sampled_from([1, 2]))
    options = {"bits": draw(bits), "input_bits": draw(bits), "signed": signed}
    x = b.relu(b.conv(x, 2 * inputs, 3, stride, groups, **options))
    x = b.conv(x, 2 * inputs, 3, bits=draw(bits), input_bits=draw(bits))
    options = {"bits": draw(bits), "input_bits": draw(bits), "signed": signed}
    shortcut = _shortcut(draw, b, start, 2 * inputs, stride, options)
    if b.values[x].shape != b.values[shortcut].shape:
        return b.relu(x)
    return b.relu(_sum(draw, b, x, shortcut))


def _sum(draw, b, x, y):
    """A residual addition, of floats or of codes."""
    return b.residual(x, y) if draw(st.booleans()) else b.op("add", x, y)


def _shortcut(draw, b, x, outputs, stride, options):
    """A 1x1 convolution, or a slice with padded channels."""
    if draw(st.booleans()):
        return b.conv(x, outputs, 1, stride, padding=0, **options)
    shape = list(b.values[x].shape[1:])
    x = b.op("slice", x, starts=[0, 0, 0], limits=shape, strides=[stride, stride, 1])
    low = (outputs - shape[-1]) // 2
    padding = [[0, 0], [0, 0], [low, outputs - shape[-1] - low]]
    return b.op("pad", x, padding=padding, value=0.0)

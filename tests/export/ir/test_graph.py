import json

import pytest

from rfquant_jax.export.ir.graph import Graph, GraphError


def graph(*nodes, shape=(4, 4, 2), output="y"):
    return {"input_shape": list(shape), "output": output, "nodes": list(nodes)}


def node(op, inputs=("image",), output="y", **attributes):
    return {"op": op, "inputs": list(inputs), "output": output, **attributes}


CONVOLUTION = {
    "layer": "conv",
    "kernel": [6, 3, 3, 2],
    "strides": [1, 2],
    "padding": [[1, 1], [0, 1]],
    "dilation": [1, 1],
    "groups": 1,
}


@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (node("convolution", **CONVOLUTION), (4, 2, 6)),
        (node("convolution", **CONVOLUTION | {"dilation": [2, 1]}), (2, 2, 6)),
        (node("convolution", **CONVOLUTION | {"groups": 2, "kernel": [6, 1, 1, 1]}), (6, 3, 6)),
        (node("dense", layer="fc", kernel=[5, 2]), (4, 4, 5)),
        (node("max_pool", window=[3, 3], strides=[2, 2], padding=[[1, 1], [1, 1]]), (2, 2, 2)),
        (node("sum", axes=[1, 2]), (2,)),
        (node("max", axes=[2]), (4, 2)),
        (node("pad", padding=[[0, 0], [1, 2], [3, 0]], value=0.0), (4, 7, 5)),
        (node("slice", starts=[0, 1, 0], limits=[4, 4, 1], strides=[2, 2, 1]), (2, 2, 1)),
        (node("concatenate", ["image", "image"], axis=3), (4, 4, 4)),
        (node("reshape", shape=[8, 4]), (8, 4)),
        (node("add", ["image", 2.0]), (4, 4, 2)),
    ],
)
def test_the_shape_of_what_a_node_makes(made, shape):
    found = Graph.from_json(json.loads(json.dumps(graph(made))))
    assert found.shapes == {"image": (4, 4, 2), "y": shape}
    assert found.to_json() == graph(made)


def test_an_axis_of_length_1_is_repeated():
    small = node("slice", output="a", starts=[0, 0, 0], limits=[1, 1, 2], strides=[1, 1, 1])
    assert Graph.from_json(graph(small, node("multiply", ["a", "image"]))).shapes["y"] == (4, 4, 2)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no graph"),
        ({"nodes": {}}, "there is no graph"),
        (graph(shape=(4, 4)), "input_shape"),
        (graph(shape=(4, 0, 1)), "at least 1"),
        (graph("relu"), "is no mapping"),
        (graph(node("relu")), "is none of the operations"),
        (graph(node(["add"])), "is none of the operations"),
        (graph(node("add", ["image", "later"])), "takes 'later', which is not defined before it"),
        (graph(node("add", ["image", float("nan")])), "must be a finite number"),
        (graph(node("add", ["image", ["image"]])), "must be a finite number"),
        (graph(node("add", [1.0, 1.0])), "do not go together"),
        (graph(node("add")), "takes 2 inputs"),
        (graph(node("negate", [1.0])), "takes no number"),
        (graph(node("negate", output="image")), "is defined twice"),
        (graph(node("negate", extra=1)), "takes the attributes []"),
        (graph(node("negate", output="x")), "the output 'y' is not defined by any node"),
        (graph(node("sum", axes=[0])), "at least 1"),
        (graph(node("sum", axes=[1, 1])), "are not those of"),
        (graph(node("sum", axes=[True])), "must be whole numbers"),
        (graph(node("sum", axes="12")), "must be whole numbers"),
        (graph(node("reshape", shape=[5, 5])), "cannot become"),
        (graph(node("reshape", shape=[2**40, 1])), "must be whole numbers"),
        (graph(node("slice", starts=[0] * 3, limits=[9] * 3, strides=[1] * 3)), "does not lie in"),
        (graph(node("pad", padding=[[0, 2**30], [0, 2], [0, 0]], value=0)), "is too large"),
        (graph(node("pad", padding=[[0, 0]], value=0)), "must be 3 pairs"),
        (graph(node("max_pool", window=[9, 9], strides=[1, 1], padding=[[0, 0]] * 2)), "not fit"),
        (graph(node("dense", layer="a", kernel=[5, 3])), "does not take"),
        (graph(node("dense", layer=1, kernel=[5, 2])), "must be a unique name"),
        (graph(node("convolution", **CONVOLUTION | {"groups": 4})), "does not take 2 channels"),
        (graph(node("convolution", **CONVOLUTION | {"strides": [0, 1]})), "at least 1"),
        (
            graph(
                node("dense", layer="a", kernel=[2, 2], output="x"),
                node("dense", ["x"], layer="a", kernel=[2, 2]),
            ),
            "must be a unique name",
        ),
    ],
)
def test_a_graph_that_cannot_run_is_refused(content, said):
    with pytest.raises(GraphError) as error:
        Graph.from_json(content)
    assert said in str(error.value)

"""The reader of optimized HLO text and the roofline model, on a program worked out by hand."""

import pytest

from benchmarks.hlo_kernels import kernels
from benchmarks.hlo_text import Array, parse, parse_instruction
from benchmarks.roofline import analysis, operations, products, seconds, slowest

PROGRAM = """\
HloModule small, is_scheduled=true, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

FileNames
1 "/somewhere/a.py"

%relu (p0: f32[4,8]) -> bf16[4,8] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %zero = f32[] constant(0)
  %zeros = f32[4,8]{1,0} broadcast(%zero), dimensions={}
  %larger = f32[4,8]{1,0} maximum(%p0, %zeros)
  ROOT %narrow = bf16[4,8]{1,0} convert(%larger)
}

%row (table: f32[100,8], place: s32[]) -> f32[1,8] {
  %table = f32[100,8]{1,0} parameter(0)
  %place = s32[] parameter(1)
  %first = s32[] constant(0)
  %cut = f32[1,8]{1,0} dynamic-slice(%table, %place, %first), dynamic_slice_sizes={1,8}
  ROOT %negative = f32[1,8]{1,0} negate(%cut)
}

%put (into: f32[100,8], new: f32[1,8], at: s32[]) -> f32[100,8] {
  %into = f32[100,8]{1,0} parameter(0)
  %new = f32[1,8]{1,0} parameter(1)
  %at = s32[] parameter(2)
  %start = s32[] constant(0)
  ROOT %updated = f32[100,8]{1,0} dynamic-update-slice(%into, %new, %at, %start)
}

%product (lhs: bf16[4,16], rhs: bf16[16,8]) -> f32[4,8] {
  %lhs = bf16[4,16]{1,0} parameter(0)
  %rhs = bf16[16,8]{1,0} parameter(1)
  ROOT %dot = f32[4,8]{1,0} dot(%lhs, %rhs), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%turned (wide: f32[4,8]) -> f32[8,4] {
  %wide = f32[4,8]{1,0} parameter(0)
  ROOT %tall = f32[8,4]{1,0} transpose(%wide), dimensions={1,0}
}

%body (state: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %state = (s32[], f32[4,8]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %value = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %narrowed = bf16[4,8]{1,0} fusion(%value), kind=kLoop, calls=%relu
  ROOT %next = (s32[], f32[4,8]{1,0}) tuple(%count, %value)
}

%condition (given: (s32[], f32[4,8])) -> pred[] {
  %given = (s32[], f32[4,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

%cheap (a: f32[4,8]) -> f32[4,8] {
  ROOT %a = f32[4,8]{1,0} parameter(0)
}

%costly (b: f32[4,8]) -> f32[4,8] {
  %b = f32[4,8]{1,0} parameter(0)
  ROOT %sorted = f32[4,8]{1,0} sort(%b), dimensions={1}, to_apply=%condition
}

ENTRY %main (x: f32[4,8], images: bf16[2,8,8,16], w: bf16[32,3,3,16], n: s32[]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0), metadata={op_name="x (the input)"}
  %images = bf16[2,8,8,16]{3,2,1,0} parameter(1)
  %w = bf16[32,3,3,16]{3,2,1,0} parameter(2)
  %n = s32[] parameter(3)
  %conv = (bf16[2,8,8,32]{3,2,1,0}, u8[1000]{0}) custom-call(%images, %w), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/conv" stack_frame_id=1}
  %dy = bf16[2,8,8,32]{3,2,1,0} get-tuple-element(%conv), index=0
  %dw = (f32[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%images, %dy), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %dx = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%dy, %w), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %init = (s32[], f32[4,8]{1,0}) tuple(%n, %x)
  %loop = (s32[], /*index=1*/f32[4,8]{1,0}) while(%init), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"3"}}
  %out = f32[4,8]{1,0} get-tuple-element(%loop), index=1
  %chosen = f32[4,8]{1,0} conditional(%n, %out, %out), branch_computations={%cheap, %costly}
  %copied = f32[4,8]{0,1} copy(%chosen)
  %turn = f32[8,4]{1,0} fusion(%copied), kind=kInput, calls=%turned
  %table0 = f32[100,8]{1,0} constant({...})
  %taken = f32[1,8]{1,0} fusion(%table0, %n), kind=kLoop, calls=%row
  %written = f32[100,8]{1,0} fusion(%table0, %taken, %n), kind=kLoop, calls=%put
  %left = bf16[4,16]{1,0} constant({...})
  %right = bf16[16,8]{1,0} constant({...})
  %multiplied = f32[4,8]{1,0} fusion(%left, %right), kind=kCustom, calls=%product
  %reducing = f32[4,8]{1,0} all-reduce-start(%multiplied), replica_groups={}, to_apply=%cheap
  ROOT %reduced = f32[4,8]{1,0} all-reduce-done(%reducing)
}
"""

CONVOLUTION = 2 * (2 * 8 * 8 * 32) * (3 * 3 * 16)  # outputs x window x channels, twice
IMAGES, KERNEL, OUTPUT = 2 * 8 * 8 * 16, 32 * 3 * 3 * 16, 2 * 8 * 8 * 32
# Of every kernel: bytes of one run, and how often it runs.
EXPECTED = {
    "conv": (2 * (IMAGES + KERNEL + OUTPUT), 1),  # not its workspace of 1000 bytes
    "dw": (2 * (IMAGES + OUTPUT) + 4 * KERNEL, 1),
    "dx": (2 * (OUTPUT + KERNEL + IMAGES), 1),
    "narrowed": (4 * 32 + 2 * 32, 3),
    "sorted": (4 * 32 + 4 * 32, 1),  # of the conditional, the branch with more bytes
    "copied": (4 * 32 + 4 * 32, 1),
    "turn": (4 * 32 + 4 * 32, 1),
    "taken": (4 * 8 + 4 + 4 * 8, 1),  # one row of the table, and its number
    "written": (4 * 8 + 4 + 4 * 8, 1),  # in place
    "multiplied": (2 * 64 + 2 * 128 + 4 * 32, 1),
    "reducing": (4 * 32 + 4 * 32, 1),
}


@pytest.fixture(scope="module")
def found():
    return {kernel.instruction.name: kernel for kernel in kernels(parse(PROGRAM))}


def test_bytes_and_repetitions_of_every_kernel(found):
    assert {name: (kernel.bytes, kernel.times) for name, kernel in found.items()} == EXPECTED


@pytest.mark.parametrize("name", ["conv", "dw", "dx"])
def test_a_convolution_and_its_gradients_have_equal_operations(found, name):
    assert operations(found[name]) == CONVOLUTION == 1_179_648


def test_operations_of_a_matrix_product(found):
    assert operations(found["multiplied"]) == 2 * 4 * 8 * 16
    assert not products(found["multiplied"])[0].is_convolution
    assert operations(found["narrowed"]) == 0


def test_the_roof_of_a_kernel_is_the_larger_of_computing_and_moving(found):
    assert seconds(found["conv"]) == pytest.approx(2 * (IMAGES + KERNEL + OUTPUT) / 3.35e12)
    deep = PROGRAM.replace("[32,3,3,16]", "[512,3,3,512]")
    deep = deep.replace("[2,8,8,16]", "[999,8,8,512]").replace("[2,8,8,32]", "[999,8,8,512]")
    [kernel] = [k for k in kernels(parse(deep)) if k.instruction.name == "conv"]
    expected = 2 * (999 * 8 * 8 * 512) * (3 * 3 * 512)
    assert seconds(kernel) == pytest.approx(expected / 989e12)
    of_codes = kernels(parse(deep.replace("bf16", "s8")))
    [codes] = [k for k in of_codes if k.instruction.name == "conv"]
    assert seconds(codes) == pytest.approx(expected / 1979e12)


def test_the_figures_of_a_program():
    figures = analysis(PROGRAM)
    assert figures["kernels"] == 13
    assert figures["bytes"] == sum(size * times for size, times in EXPECTED.values())
    assert figures["operations"] == 3 * CONVOLUTION + 2 * 4 * 8 * 16
    assert figures["convolutions"] == {"bf16,bf16->bf16": 2, "bf16,bf16->f32": 1}
    counted = {"copies": 2, "scatters": 0, "sorts": 1, "all_reduces": 1, "collectives": 1}
    assert {name: figures[name] for name in counted} == counted
    assert (figures["conditionals"], figures["loops"]) == (1, 1)
    # None of these small kernels computes longer than it moves.
    assert figures["roof_s"] == pytest.approx(figures["bytes"] / 3.35e12)


def test_a_sort_of_a_library_is_a_sort():
    own = "sort(%b), dimensions={1}, to_apply=%condition"
    library = 'custom-call(%b), custom_call_target="__cub$DeviceRadixSort"'
    assert own in PROGRAM
    assert analysis(PROGRAM.replace(own, library))["sorts"] == 1


def test_the_slowest_kernel_comes_first_with_its_origin():
    first, second = slowest(PROGRAM, 2)
    assert first["kernel"] == "dw"  # its float32 result
    assert first["mb"] == pytest.approx(EXPECTED["dw"][0] / 1e6)
    assert (second["kernel"], second["from"]) == ("conv", "jit(f)/conv")


def test_an_instruction_is_taken_apart():
    line = '  ROOT %a.1 = (f32[2,3]{1,0}, s8[5]{0}) fusion(%b, %c.2), calls=%d-e.3, x="("'
    one = parse_instruction(line)
    assert (one.name, one.opcode, one.operands, one.is_root) == (
        "a.1",
        "fusion",
        ("b", "c.2"),
        True,
    )
    assert one.arrays == (Array("f32", (2, 3)), Array("s8", (5,)))
    assert (one.bytes, one.elements, one.called("calls")) == (29, 6, "d-e.3")

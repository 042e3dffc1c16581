"""The part of the C export that does not depend on the model."""

from __future__ import annotations

TYPES = r"""
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "float must be computed in float, without excess precision (on x86: -mfpmath=sse)"
#endif
#ifdef __FAST_MATH__
#error "compile without -ffast-math"
#endif

/* Sizes of a convolution; a dense layer is one with a window of 1 x 1. */
typedef struct {
  int32_t h, w, c;            /* input */
  int32_t kh, kw, o, groups;  /* kernel [o, kh, kw, c / groups] */
  int32_t sh, sw, dh, dw;     /* strides, dilation */
  int32_t top, left;          /* padding */
  int32_t oh, ow;             /* output */
} shape_t;

/* Codes are stored minus `zero`, so that they are bytes from 0; `low` and `high` clip them. */
typedef struct {
  float step;
  int32_t low, high, zero;
} quantizer_t;

/* Where a layer writes codes, and how it quantizes them. */
typedef struct {
  uint8_t *codes;
  quantizer_t q;
} sink_t;

/* Weights: `codes`, packed at `bits` bits each, or `floats`. y = scale * accumulator + bias. */
typedef struct {
  const uint8_t *codes;
  const float *floats;
  int32_t bits;
  const float *scale, *bias;
} layer_t;

"""

_ROUND = r"""
/* Half to even, for |v| < 2^22. */
static float round_to_even(float v) {
  const float magic = 12582912.0f; /* 1.5 * 2^23 */
  return (v + magic) - magic;
}

"""

_CODE = r"""
static uint8_t code_of(float v, const quantizer_t *q) {
  v = v / q->step;
  if (v < (float)q->low) v = (float)q->low;
  if (v > (float)q->high) v = (float)q->high;
  return (uint8_t)((int32_t)round_to_even(v) - q->zero);
}

"""

_QUANTIZE = r"""
static void quantize(const float *x, uint8_t *codes, int32_t count, const quantizer_t *q) {
  int32_t i;
  for (i = 0; i < count; i++) codes[i] = code_of(x[i], q);
}

"""

_STORE = r"""
/* A result as floats (unless `floats` is null), and as the codes of every sink. */
static void store_value(float y, int32_t at, const sink_t *sinks, int32_t count, float *floats) {
  int32_t i;
  for (i = 0; i < count; i++) sinks[i].codes[at] = code_of(y, &sinks[i].q);
  if (floats) floats[at] = y;
}

"""

_ADD = r"""
/* A residual addition: the sum of two codes with one step size. */
static void add_codes(const uint8_t *a, const uint8_t *b, int32_t zero, int32_t size, float scale,
                      float bias, const sink_t *sinks, int32_t count, float *floats) {
  int32_t i;
  for (i = 0; i < size; i++) {
    float y = (float)((int32_t)a[i] + (int32_t)b[i] + 2 * zero) * scale;
    y = y + bias;
    store_value(y, i, sinks, count, floats);
  }
}

"""

_UNPACK = r"""
/* Code number `i` of a packed stream, in two's complement. */
static int32_t code_at(const uint8_t *packed, uint32_t i, int32_t bits) {
  const uint32_t at = i * (uint32_t)bits, half = 1u << (bits - 1);
  const uint32_t shift = at & 7u, byte = at >> 3;
  uint32_t v = packed[byte];
  if (shift + (uint32_t)bits > 8u) v |= (uint32_t)packed[byte + 1] << 8;
  v = (v >> shift) & ((1u << bits) - 1u);
  return (int32_t)(v ^ half) - (int32_t)half;
}

/* One output channel's weights. */
static void unpack(const layer_t *layer, int32_t channel, int32_t count, int8_t *row) {
  int32_t i;
  for (i = 0; i < count; i++)
    row[i] = (int8_t)code_at(layer->codes, (uint32_t)channel * (uint32_t)count + (uint32_t)i,
                             layer->bits);
}
"""

_INTEGER = r"""
/* From codes; accumulators are exact. */
static void integer_layer(const shape_t *s, const layer_t *layer, const uint8_t *x, int32_t zero,
                          int8_t *row, const sink_t *sinks, int32_t count, float *floats) {
  const int32_t width = s->c / s->groups, per_group = s->o / s->groups;
  int32_t o, a, b, u, v, i;
  for (o = 0; o < s->o; o++) {
    const uint8_t *group = x + (o / per_group) * width;
    unpack(layer, o, s->kh * s->kw * width, row);
    for (a = 0; a < s->oh; a++)
      for (b = 0; b < s->ow; b++) {
        int32_t sum = 0;
        float y;
        for (u = 0; u < s->kh; u++) {
          const int32_t h = a * s->sh + u * s->dh - s->top;
          if (h < 0 || h >= s->h) continue;
          for (v = 0; v < s->kw; v++) {
            const int32_t w = b * s->sw + v * s->dw - s->left;
            const uint8_t *in;
            const int8_t *weights;
            if (w < 0 || w >= s->w) continue;
            in = group + (h * s->w + w) * s->c;
            weights = row + (u * s->kw + v) * width;
            for (i = 0; i < width; i++) sum += ((int32_t)in[i] + zero) * weights[i];
          }
        }
        y = (float)sum * layer->scale[o];
        y = y + layer->bias[o];
        store_value(y, (a * s->ow + b) * s->o + o, sinks, count, floats);
      }
  }
}
"""

_FLOAT = r"""
/* The input of a layer of floats: floats, or bytes and what they stand for. */
typedef struct {
  const float *floats;
  const uint8_t *bytes;
  const float *values; /* of 256 bytes; those of the next channel are `stride` behind */
  int32_t stride;
} source_t;

static float read_source(const source_t *x, int32_t at, int32_t channel) {
  return x->bytes ? x->values[channel * x->stride + x->bytes[at]] : x->floats[at];
}

/* From floats. */
static void float_layer(const shape_t *s, const layer_t *layer, const source_t *x, int8_t *row,
                        const sink_t *sinks, int32_t count, float *floats) {
  const int32_t width = s->c / s->groups, per_group = s->o / s->groups;
  const int32_t weights = s->kh * s->kw * width;
  int32_t o, a, b, u, v, i;
  for (o = 0; o < s->o; o++) {
    const int32_t group = (o / per_group) * width;
    const float *kernel = layer->floats ? layer->floats + o * weights : layer->floats;
    if (!kernel) unpack(layer, o, weights, row);
    for (a = 0; a < s->oh; a++)
      for (b = 0; b < s->ow; b++) {
        float sum = 0.0f;
        for (u = 0; u < s->kh; u++) {
          const int32_t h = a * s->sh + u * s->dh - s->top;
          if (h < 0 || h >= s->h) continue;
          for (v = 0; v < s->kw; v++) {
            const int32_t w = b * s->sw + v * s->dw - s->left;
            const int32_t at = (h * s->w + w) * s->c + group, first = (u * s->kw + v) * width;
            float part = 0.0f;
            if (w < 0 || w >= s->w) continue;
            for (i = 0; i < width; i++) {
              const float weight = kernel ? kernel[first + i] : (float)row[first + i];
              const float product = read_source(x, at + i, group + i) * weight;
              part = part + product;
            }
            sum = sum + part;
          }
        }
        sum = sum * layer->scale[o];
        sum = sum + layer->bias[o];
        store_value(sum, (a * s->ow + b) * s->o + o, sinks, count, floats);
      }
  }
}
"""

# By function name; each calls only functions before it.
_FUNCTIONS = {
    "round_to_even": _ROUND,
    "code_of": _CODE,
    "quantize": _QUANTIZE,
    "store_value": _STORE,
    "add_codes": _ADD,
    "unpack": _UNPACK,
    "integer_layer": _INTEGER,
    "float_layer": _FLOAT,
}


def functions_for(body: str) -> str:
    """The functions that some code calls, directly or indirectly."""
    for name in reversed(_FUNCTIONS):
        if f"{name}(" in body:
            body = _FUNCTIONS[name] + body
    return body

// Products of int4 for many tokens: some rows of weights are unpacked and meet all panels. Where AMX is, to bfloat16, with
// their scales in them; elsewhere to a byte each, whose sums meet the scales.
#pragma once

#include "int4.h"
#include "tiles.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t UNPACKED_ROWS = 32, UNPACKED_INPUTS = 1024;  // which stay in a near cache

#if defined(__AMX_TILE__)
// What weights of two scales can be: 16 values of each.
INLINE __m512i values_of(float first, float second) {
    const Floats steps = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
    return (__m512i)_mm512_cvtne2ps_pbh((__m512)(steps * second), (__m512)(steps * first));
}

// `count` inputs, at most 32, as the first or second 16 of these values; 32 numbers are written.
INLINE void unpack_group(const uint8_t *from, int64_t count, __m512i values, uint32_t second, Brain *to) {
    __m128i pairs;
    if (count >= 32) pairs = _mm_loadu_si128((const __m128i *)from);
    else pairs = _mm_maskz_loadu_epi8((__mmask16)((1u << count / 2) - 1), from);
    const Words both = (Words)_mm512_cvtepu8_epi32(pairs), halves = (both | both << 12) & splat_word(0x000f000f);
    _mm512_storeu_si512(to, _mm512_permutexvar_epi16((__m512i)(halves | splat_word(second)), values));
}

// Inputs `first` to `end` of a row, behind which there is room for 32 more.
INLINE void unpack_to_brains(const quintet_matrix &w, int64_t row, int64_t first, int64_t end, Brain *to) {
    const int64_t bytes = row_bytes(w), group = group_size(w);
    const uint8_t *from = (const uint8_t *)w.data + row * bytes;
    int64_t at = first, number = row * (w.inputs / group) + first / group;  // of the scale
    if (group == 32)
        for (; at + 64 <= end; at += 64, number += 2) {
            const __m512i values = values_of(scale_at(w, number), scale_at(w, number + 1));
            prefetch(from + at / 2 + UNPACKED_ROWS * bytes);
            unpack_group(from + at / 2, 32, values, 0, to + at - first);
            unpack_group(from + at / 2 + 16, 32, values, 0x00100010, to + at - first + 32);
        }
    for (int64_t stop = at - at % group; at < end; at = stop, number++) {
        stop = least(stop + group, end);
        const __m512i values = values_of(scale_at(w, number), scale_at(w, number));
        for (int64_t i = at; i < stop; i += 32) {
            prefetch(from + i / 2 + UNPACKED_ROWS * bytes);
            unpack_group(from + i / 2, stop - i, values, 0, to + i - first);
        }
    }
}

static void multiply_int4(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                          int64_t panels, const Target &to) {
    alignas(64) Brain room[UNPACKED_ROWS * UNPACKED_INPUTS + 32];
    for (int64_t row = first; row < end; row += UNPACKED_ROWS)
        for (int64_t at = 0; at < w.inputs; at += UNPACKED_INPUTS) {
            const int64_t rows = least(UNPACKED_ROWS, end - row), inputs = least(UNPACKED_INPUTS, w.inputs - at);
            keep_memory_in_order();
            for (int64_t r = 0; r < rows; r++) unpack_to_brains(w, row + r, at, at + inputs, room + r * inputs);
            keep_memory_in_order();
            Packed part = x;
            part.data += at * LANES * sizeof(Brain);
            const quintet_matrix unpacked{room, nullptr, rows, inputs, QUINTET_BFLOAT16, 0, 0};
            multiply_on_tiles<false>(unpacked, 0, rows, part, panel, panels,
                                     {to.out + (row - first) * LANES, to.stride, to.adds || at > 0});
        }
}
#else
// Weights from 0 to 15 in the order of their inputs; `first` is the first of these.
struct Unpacked {
    uint8_t (*rows)[UNPACKED_INPUTS];
    const quintet_matrix &w;
    int64_t row, count, first, inputs;
    int64_t groups = w.inputs / group_size(w);  // of a row

    // A group, or what of it is here.
    int64_t span() const { return least(group_size(w), inputs); }
};

// Inputs of one group, from `at` on. Sums of a panel's tokens begin, once a group, at -8 times those of their numbers.
struct Group {
    int64_t at;
    int64_t scale;         // its number, of the first row; those of the next rows are `groups` apart
    const int32_t *total;  // of the first panel; those of the next panels are `groups` rows of 16 apart

    Group(const Unpacked &weights, int64_t at, const Packed &x, int64_t panel) : at(at) {
        const int64_t size = group_size(weights.w), number = (weights.first + at) / size;
        scale = weights.row * weights.groups + number;
        total = number * size == weights.first + at ? x.total + (panel * weights.groups + number) * LANES : nullptr;
    }
    Ints start(int64_t distance) const { return total == nullptr ? Ints{} : load_as<Ints>(total + distance); }
};

INLINE void unpack_row(const uint8_t *from, int64_t inputs, int64_t ahead, uint8_t *to) {
    typedef uint8_t Narrow __attribute__((vector_size(2 * WIDTH)));
    typedef uint16_t Pairs __attribute__((vector_size(BYTES)));
    int64_t at = 0;
    for (; at + 4 * WIDTH <= inputs; at += 4 * WIDTH) {
        prefetch(from + at / 2 + ahead);
        Pairs pairs = __builtin_convertvector(load_as<Narrow>(from + at / 2), Pairs);
        pairs = (pairs | pairs << 4) & (uint16_t)0x0f0f;
        __builtin_memcpy(to + at, &pairs, sizeof pairs);
    }
    for (; at < inputs; at++) to[at] = from[at / 2] >> 4 * (at % 2) & 15;
}

#if defined(__AVX512F__)
constexpr int INT4_ROWS = 4, INT4_PANELS = 2;
#else
constexpr int INT4_ROWS = 2, INT4_PANELS = 1;
#endif

template <int ROWS, int PANELS>
INLINE void multiply_unpacked(const Unpacked &weights, int64_t row, const Packed &x, int64_t panel, float *out,
                              const Target &to) {
    Floats results[ROWS][PANELS][PARTS] = {};
    const uint8_t *tokens = x.data + panel * x.stride + weights.first * LANES;
    const int64_t groups = weights.groups, span = weights.span();
    for (int64_t first = 0; first < weights.inputs; first += span) {
        const Group group(weights, first, x, panel);
        Ints sums[ROWS][PANELS][PARTS];
        for (int p = 0; p < PANELS; p++)
            for (int part = 0; part < PARTS; part++)
                for (int r = 0; r < ROWS; r++) sums[r][p][part] = group.start(p * groups * LANES + part * WIDTH);
        for (int64_t at = first; at < first + span; at += 4) {
            Words numbers[PANELS][PARTS];
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
                for (int part = 0; part < PARTS; part++)
                    numbers[p][part] = load_as<Words>(tokens + p * x.stride + at * LANES + part * BYTES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                Words weight = broadcast(weights.rows[row + r] + at, 4);
#pragma GCC unroll 8
                for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
                    for (int part = 0; part < PARTS; part++)
                        sums[r][p][part] = add_bytes(sums[r][p][part], weight, numbers[p][part]);
            }
        }
        for (int r = 0; r < ROWS; r++) {
            const float scale = scale_at(weights.w, group.scale + (row + r) * groups);
            for (int p = 0; p < PANELS; p++)
                for (int part = 0; part < PARTS; part++) results[r][p][part] += to_floats(sums[r][p][part]) * scale;
        }
    }
    for (int p = 0; p < PANELS; p++)
        for (int r = 0; r < ROWS; r++)
            for (int part = 0; part < PARTS; part++)
                put(out + p * to.stride + r * LANES + part * WIDTH,
                    results[r][p][part] * load(x.scale + (panel + p) * LANES + part * WIDTH),
                    to.adds || weights.first > 0);
}

template <int PANELS>
static void multiply_rows(const Unpacked &weights, const Packed &x, int64_t panel, float *out, const Target &to) {
    int64_t row = 0;
    for (; row + INT4_ROWS <= weights.count; row += INT4_ROWS)
        multiply_unpacked<INT4_ROWS, PANELS>(weights, row, x, panel, out + row * LANES, to);
    for (; row < weights.count; row++) multiply_unpacked<1, PANELS>(weights, row, x, panel, out + row * LANES, to);
}

static void multiply_panels(const Unpacked &weights, const Packed &x, int64_t panel, int64_t panels, float *out,
                            const Target &to) {
    int64_t p = panel;
    for (; p + INT4_PANELS <= panel + panels; p += INT4_PANELS)
        multiply_rows<INT4_PANELS>(weights, x, p, out + p * to.stride, to);
    for (; p < panel + panels; p++) multiply_rows<1>(weights, x, p, out + p * to.stride, to);
}
static void multiply_int4(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                          int64_t panels, const Target &to) {
    alignas(64) uint8_t room[UNPACKED_ROWS][UNPACKED_INPUTS];
    const int64_t bytes = row_bytes(w);
    for (int64_t row = first; row < end; row += UNPACKED_ROWS)
        for (int64_t at = 0; at < w.inputs; at += UNPACKED_INPUTS) {
            Unpacked weights{room, w, row, least(UNPACKED_ROWS, end - row), at, least(UNPACKED_INPUTS, w.inputs - at)};
            for (int64_t r = 0; r < weights.count; r++) {
                const uint8_t *from = (const uint8_t *)w.data + (row + r) * bytes + at / 2;
                unpack_row(from, weights.inputs, UNPACKED_ROWS * bytes, room[r]);
            }
            multiply_panels(weights, x, panel, panels, to.out + (row - first) * LANES, to);
        }
}

#endif

}  // namespace quintet::QUINTET_ISA

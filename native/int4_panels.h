// Products of int4 for many tokens: some rows of weights are unpacked to a byte each and meet all panels.
#pragma once

#include "int4.h"
#include "tiles.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t UNPACKED_ROWS = 32, UNPACKED_INPUTS = 1024;  // which stay in the first-level cache

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
    const float *scale;    // of the first row; those of the next rows are `groups` apart
    const int32_t *total;  // of the first panel; those of the next panels are `groups` rows of 16 apart

    Group(const Unpacked &weights, int64_t at, const Packed &x, int64_t panel) : at(at) {
        const int64_t size = group_size(weights.w), number = (weights.first + at) / size;
        scale = weights.w.scale + weights.row * weights.groups + number;
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

#if defined(__AMX_TILE__)
// Adds the products of `inputs` inputs from `at` on to tiles 0 and 1 (16 rows by one panel and, if WIDE, the next), and
// 2 and 3 if TALL.
template <bool TALL, bool WIDE>
INLINE void add_int4_products(const Unpacked &weights, int64_t at, int64_t inputs, const uint8_t *left,
                              const uint8_t *right) {
    alignas(64) uint8_t room[1024];
    const int64_t end = at + inputs, step = least(64, weights.span());
    for (; at < end; at += step) {
        auto load_tokens = [&](const uint8_t *from, auto load) {
            if (end - at >= step) return load(from + at * LANES);
            copy_rows(room, from + at * LANES, 64, (end - at) / 4, 64);
            load(room);
        };
        _tile_loadd(4, weights.rows[0] + at, UNPACKED_INPUTS);
        load_tokens(left, [](const uint8_t *from) { _tile_loadd(6, from, 64); });
        _tile_dpbusd(0, 4, 6);
        if constexpr (WIDE) {
            load_tokens(right, [](const uint8_t *from) { _tile_loadd(7, from, 64); });
            _tile_dpbusd(1, 4, 7);
        }
        if constexpr (TALL) {
            _tile_loadd(5, weights.rows[16] + at, UNPACKED_INPUTS);
            _tile_dpbusd(2, 5, 6);
        }
        if constexpr (TALL && WIDE) _tile_dpbusd(3, 5, 7);
    }
}

// results (rows, 16) += (sums + start) * scale
INLINE void add_group(const int32_t *sums, Ints start, const float *scale, int64_t groups, int64_t rows,
                      float *results) {
#pragma GCC unroll 16
    for (int64_t r = 0; r < 16; r++) {
        if (r >= rows) break;
        Floats exact = to_floats(load_as<Ints>(sums + r * LANES) + start);
        store(results + r * LANES, load(results + r * LANES) + exact * scale[r * groups]);
    }
}

template <bool TALL, bool WIDE>
static void multiply_unpacked(const Unpacked &weights, const Packed &x, int64_t panel, float *out, int64_t stride,
                              bool adds) {
    alignas(64) int32_t sums[4][256];
    alignas(64) float results[4][256] = {};
    const uint8_t *left = x.data + panel * x.stride + weights.first * LANES, *right = left + x.stride;
    const int64_t span = weights.span(), groups = weights.groups;
    for (int64_t at = 0; at < weights.inputs; at += span) {
        _tile_zero(0);
        if (WIDE) _tile_zero(1);
        if (TALL) _tile_zero(2);
        if (TALL && WIDE) _tile_zero(3);
        add_int4_products<TALL, WIDE>(weights, at, span, left, right);
        _tile_stored(0, sums[0], 64);
        if (WIDE) _tile_stored(1, sums[1], 64);
        if (TALL) _tile_stored(2, sums[2], 64);
        if (TALL && WIDE) _tile_stored(3, sums[3], 64);
        keep_memory_in_order();
        const Group group(weights, at, x, panel);
        for (int p = 0; p <= (int)WIDE; p++) {
            const Ints start = group.start(p * groups * LANES);
            add_group(sums[p], start, group.scale, groups, weights.count, results[p]);
            if constexpr (TALL)
                add_group(sums[2 + p], start, group.scale + 16 * groups, groups, weights.count - 16, results[2 + p]);
        }
    }
    for (int p = 0; p <= (int)WIDE; p++) {
        const Floats scale = load(x.scale + (panel + p) * LANES);
        for (int64_t r = 0; r < weights.count; r++)
            put(out + p * stride + r * LANES, load(results[r / 16 * 2 + p] + r % 16 * LANES) * scale, adds);
    }
}

static void multiply_panels(const Unpacked &weights, const Packed &x, int64_t panel, int64_t panels, float *out,
                            const Target &to) {
    const bool adds = to.adds || weights.first > 0, tall = weights.count > 16;
    for (int64_t p = panel; p < panel + panels; p += 2) {
        const bool wide = p + 1 < panel + panels;
        auto run = wide ? (tall ? multiply_unpacked<true, true> : multiply_unpacked<false, true>)
                        : (tall ? multiply_unpacked<true, false> : multiply_unpacked<false, false>);
        run(weights, x, p, out + p * to.stride, to.stride, adds);
    }
}
#else
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
        const float *scale = group.scale + row * groups;
        for (int r = 0; r < ROWS; r++)
            for (int p = 0; p < PANELS; p++)
                for (int part = 0; part < PARTS; part++)
                    results[r][p][part] += to_floats(sums[r][p][part]) * scale[r * groups];
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
#endif

static void multiply_int4(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                          int64_t panels, const Target &to) {
    alignas(64) uint8_t room[UNPACKED_ROWS][UNPACKED_INPUTS];
    const int64_t bytes = row_bytes(w);
    Tiles::take(least(64, group_size(w)));
    for (int64_t row = first; row < end; row += UNPACKED_ROWS)
        for (int64_t at = 0; at < w.inputs; at += UNPACKED_INPUTS) {
            Unpacked weights{room, w, row, least(UNPACKED_ROWS, end - row), at, least(UNPACKED_INPUTS, w.inputs - at)};
            for (int64_t r = 0; r < weights.count; r++) {
                const uint8_t *from = (const uint8_t *)w.data + (row + r) * bytes + at / 2;
                unpack_row(from, weights.inputs, UNPACKED_ROWS * bytes, room[r]);
            }
            multiply_panels(weights, x, panel, panels, to.out + (row - first) * LANES, to);
        }
    Tiles::take(64);
}

}  // namespace quintet::QUINTET_ISA

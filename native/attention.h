// Attention over a source's tokens (encoder and decoder) and over a target's own (decoder).
#pragma once

#include "network.h"
#include "rounding.h"

namespace quintet::QUINTET_ISA {

// The bias of a head by distance, as far as it reaches.
struct HeadBias {
    const float *middle;
    int64_t reach;

    HeadBias(const quintet_attention &attention, int64_t head)
        : middle(attention.bias == nullptr ? nullptr
                                           : attention.bias + head * (2 * attention.reach + 1) + attention.reach),
          reach(attention.reach) {}

    float at(int64_t distance) const { return middle == nullptr ? 0.f : middle[most(-reach, least(reach, distance))]; }
};

// -- the encoder: for each head of a source a product of its keys with queries, and of its values with their weights --

constexpr float INVISIBLE = -3e38f;

template <class Number>
constexpr int32_t TYPE_OF = sizeof(Number) == 4 ? QUINTET_FLOAT32 : QUINTET_BFLOAT16;

// A head's keys and values of a source, as matrices of products: keys (length, width), values (d_kv, length rounded up
// to whole panels). The width is d_kv rounded up to whole words.
template <class Number>
struct HeadMemory {
    static constexpr int64_t PER_WORD = 4 / sizeof(Number);
    Number *keys, *values;
    int64_t length, d_kv;

    static int64_t width_of(int64_t d_kv) { return rounded_up(d_kv, PER_WORD); }
    int64_t width() const { return width_of(d_kv); }
    int64_t filled() const { return rounded_up(length, LANES); }
    quintet_matrix key_matrix() const { return {keys, nullptr, length, width(), TYPE_OF<Number>, 0}; }
    quintet_matrix value_matrix() const { return {values, nullptr, d_kv, filled(), TYPE_OF<Number>, 0}; }

    // Takes one panel's keys and values, each (d_kv, 16).
    void keep(int64_t panel, const float *new_keys, const float *new_values) const {
        uint32_t *words = (uint32_t *)(keys + panel * LANES * width());
        for (int64_t d = 0; d < d_kv; d++)
            for (int part = 0; part < PARTS; part++)
                store_as(values + d * filled() + panel * LANES + part * WIDTH,
                         load(new_values + d * LANES + part * WIDTH));
        for (int64_t d = 0; d < d_kv; d += PER_WORD) {
            uint32_t row[LANES];
            for (int part = 0; part < PARTS; part++)
                store(row + part * WIDTH, word_of<Number>(new_keys + d * LANES + part * WIDTH, d_kv - d));
            for (int64_t lane = 0; lane < LANES; lane++) words[(lane * width() + d) / PER_WORD] = row[lane];
        }
    }
};

// The bias of a head against `length` keys at most, as a line that holds it by query - key: the queries of a panel find
// theirs side by side. `middle` is where query and key are the same.
INLINE void lay_out_bias(const HeadBias &bias, int64_t length, float *middle) {
    for (int64_t distance = -length; distance < length + LANES; distance++) middle[distance] = bias.at(-distance);
}

// In place: scores (keys, 16) of a panel's queries, with `bias` at the first query's distance to the first key, to
// e^(score + bias - largest), as the product with values takes them. Returns each lane's sum.
template <class Number>
static Row soften(float *scores, int64_t keys, const float *bias, const uint8_t *visible) {
    Row top, total{};
    for (int part = 0; part < PARTS; part++) top.part[part] = splat(INVISIBLE);
    for (int64_t key = 0; key < keys; key++)
        for (int part = 0; part < PARTS; part++) {
            Floats score = load(scores + key * LANES + part * WIDTH) + load(bias - key + part * WIDTH);
            if (visible != nullptr && !visible[key]) score = splat(INVISIBLE);
            store(scores + key * LANES + part * WIDTH, score);
            top.part[part] = maximum(top.part[part], score);
        }
    auto weigh = [&](int64_t key, int part) {
        Floats weight{};
        if (key < keys) weight = exponential(load(scores + key * LANES + part * WIDTH) - top.part[part]);
        total.part[part] += weight;
        return weight;
    };
    for (int64_t key = 0; key < rounded_up(keys, LANES); key += 4 / sizeof(Number))
        for (int part = 0; part < PARTS; part++) {
            Floats weight = weigh(key, part);
            float *to = scores + key * sizeof(Number) / 4 * LANES + part * WIDTH;
            if constexpr (sizeof(Number) == 4) store(to, weight);
            else store(to, bfloat16_pairs(weight, weigh(key + 1, part)));
        }
    return total;
}

// Up to QUERIES_AT_ONCE panels of queries, `stride` numbers apart, at a head's first number; results take their place.
// `bias` is that of the first query and the first key. `room` is for (length + d_kv) rows of each panel.
template <class Number>
static void attend_panels(float *queries, int64_t stride, int64_t panels, const HeadMemory<Number> &memory,
                          const float *bias, const uint8_t *visible, float *room) {
    const int64_t line = memory.filled() * LANES, row_size = LANES * sizeof(Number);
    float *scores = room, *rounded = room + panels * line;
    Packed x{(uint8_t *)rounded, memory.width() * row_size, nullptr, nullptr, 0, TYPE_OF<Number>, 0, panels};
    for (int64_t panel = 0; panel < panels; panel++)
        round_block<LANES>(queries + panel * stride, memory.d_kv, x, panel);
    multiply<LANES>(memory.key_matrix(), 0, memory.length, x, 0, panels, {scores, line, false});
    Row totals[QUERIES_AT_ONCE];
    for (int64_t panel = 0; panel < panels; panel++)
        totals[panel] = soften<Number>(scores + panel * line, memory.length, bias + panel * LANES, visible);
    Packed weights{(uint8_t *)scores, line * 4, nullptr, nullptr, 0, TYPE_OF<Number>, 0, panels};
    multiply<LANES>(memory.value_matrix(), 0, memory.d_kv, weights, 0, panels, {queries, stride, false});
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t d = 0; d < memory.d_kv; d++)
            for (int part = 0; part < PARTS; part++) {
                float *at = queries + panel * stride + d * LANES + part * WIDTH;
                store(at, load(at) / totals[panel].part[part]);
            }
}

// -- the decoder: one query, lanes along the keys or along d --------------------------------------------------------

// Whether keys and values are integers. Their scales then meet scores and weights, of which there are fewer.
template <class Number>
constexpr bool IS_SCALED = sizeof(Number) == 1;

// In place: e^(score - largest) over their sum, of `count` scores; up to the next 16 they become 0.
static void soften_one(float *scores, int64_t count) {
    int64_t filled = rounded_up(count, LANES);
    for (int64_t at = count; at < filled; at++) scores[at] = INVISIBLE;
    Floats top = splat(INVISIBLE), total{};
    for (int64_t at = 0; at < filled; at += WIDTH) top = maximum(top, load(scores + at));
    Floats highest = splat(largest(top));
    for (int64_t at = 0; at < filled; at += WIDTH) {
        Floats weight = exponential(load(scores + at) - highest);
        store(scores + at, weight);
        total += weight;
    }
    for (int64_t at = count; at < filled; at++) scores[at] = 0;
    Floats over = splat(1.f / sum(total));
    for (int64_t at = 0; at < filled; at += WIDTH) store(scores + at, load(scores + at) * over);
}

// Products of a query with the keys of each of PANELS panels. The values behind them, needed next, are asked for.
template <int PANELS, class Number>
INLINE void score_panels(const float *query, const Number *keys, int64_t stride, int64_t d_kv, float *scores) {
    Floats sums[PANELS][PARTS] = {};
    for (int64_t d = 0; d < d_kv; d++)
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; p++) {
            prefetch((const uint8_t *)(keys + p * stride + (d_kv + d) * LANES));
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++)
                sums[p][part] += query[d] * load(keys + p * stride + d * LANES + part * WIDTH);
        }
    for (int p = 0; p < PANELS; p++)
        for (int part = 0; part < PARTS; part++) store(scores + p * LANES + part * WIDTH, sums[p][part]);
}

// Over a source whose keys are panels of (d_kv, 16), each with its values and, if there are any, the scales of both
// behind it; `stride` numbers from panel to panel.
template <class Number>
static void attend_source(const float *query, const Number *keys, int64_t stride, int64_t length, int64_t d_kv,
                          float *scores, float *result) {
    const Number *values = keys + d_kv * LANES;
    int64_t panels = (length + LANES - 1) / LANES, panel = 0;
    auto multiply_by_scales = [&](int64_t which) {
        if constexpr (IS_SCALED<Number>)
            for (int64_t at = 0; at < panels * LANES; at += WIDTH) {
                const Number *scales = keys + at / LANES * stride + 2 * d_kv * LANES;
                store(scores + at, load(scores + at) * load((const float *)scales + which * LANES + at % LANES));
            }
    };
    for (; panel + 4 <= panels; panel += 4)
        score_panels<4>(query, keys + panel * stride, stride, d_kv, scores + panel * LANES);
    for (; panel < panels; panel++) score_panels<1>(query, keys + panel * stride, stride, d_kv, scores + panel * LANES);
    multiply_by_scales(0);
    soften_one(scores, length);
    multiply_by_scales(1);
    for (int64_t d = 0; d < d_kv; d += 4) {
        int64_t count = least(4, d_kv - d);
        Floats totals[4] = {};
        for (panel = 0; panel < panels; panel++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                Floats weight = load(scores + panel * LANES + part * WIDTH);
                const Number *value = values + panel * stride + d * LANES + part * WIDTH;
                for (int i = 0; i < 4; i += 2)  // of the next source's keys
                    prefetch((const uint8_t *)(keys + (panels + panel) * stride + (d + i) * LANES));
                if (count == 4)
#pragma GCC unroll 4
                    for (int i = 0; i < 4; i++) totals[i] += weight * load(value + i * LANES);
                else
                    for (int i = 0; i < count; i++) totals[i] += weight * load(value + i * LANES);
            }
        FourFloats four = sums_of_four(totals[0], totals[1], totals[2], totals[3]);
        __builtin_memcpy(result + d, &four, 4 * count);
    }
}

// The keys of a row's own tokens in a chunk, one after the other.
template <class Number>
struct OwnKeys {
    const Targets &targets;
    const Chunk &chunk;
    int64_t layer, head, row;

    const Number *at(int64_t position) const {
        return (const Number *)targets.slot(chunk, layer, head, targets.place_of(chunk, row, position), position);
    }

    // Of 8-bit numbers: the scale of the key, and that of the value.
    const float *scales(int64_t position) const {
        return targets.scales(chunk, layer, head, targets.place_of(chunk, row, position), position);
    }

    // Some keys and values will be needed soon, which lie too scattered for the processor to foresee it. Inline, since
    // GCC leaves out calls of a function that only prefetches.
    __attribute__((always_inline)) void fetch(int64_t first, int64_t end) const {
        for (int64_t next = first; next < least(end, chunk.start + chunk.count); next++)
            for (int64_t byte = 0; byte < 2 * targets.width * (int64_t)sizeof(Number); byte += 64)
                prefetch((const uint8_t *)at(next) + byte);
    }
};

constexpr int64_t OWN_AHEAD = 12;  // positions; of the next row, too

template <class Number>
INLINE Floats products_of(const float *query, const Number *key, int64_t width) {
    Floats total{};
    for (int64_t d = 0; d < width; d += WIDTH) total += load(query + d) * load(key + d);
    return total;
}

template <class Number>
static void score_own(const float *query, const OwnKeys<Number> &keys, int64_t first, int64_t end, float *scores) {
    int64_t width = keys.targets.width, at = first;
    keys.fetch(first, first + OWN_AHEAD);
    for (; at + 4 <= end; at += 4) {
        keys.fetch(at + OWN_AHEAD, at + OWN_AHEAD + 4);
        FourFloats four =
            sums_of_four(products_of(query, keys.at(at), width), products_of(query, keys.at(at + 1), width),
                         products_of(query, keys.at(at + 2), width), products_of(query, keys.at(at + 3), width));
        __builtin_memcpy(scores + at, &four, sizeof four);
    }
    for (; at < end; at++) scores[at] = sum(products_of(query, keys.at(at), width));
    if constexpr (IS_SCALED<Number>)
        for (at = first; at < end; at++) scores[at] *= keys.scales(at)[0];
}

// result[d ...] += the weighted sum of VECTORS vectors of each value.
template <int VECTORS, class Number>
INLINE void weigh_own(const OwnKeys<Number> &keys, int64_t first, int64_t end, const float *weights, int64_t d,
                      float *result) {
    Floats sums[VECTORS];
    for (int i = 0; i < VECTORS; i++) sums[i] = load(result + d + i * WIDTH);
    for (int64_t at = first; at < end; at++) {
        const Number *value = keys.at(at) + keys.targets.width + d;
#pragma GCC unroll 4
        for (int i = 0; i < VECTORS; i++) sums[i] += weights[at] * load(value + i * WIDTH);
    }
    for (int i = 0; i < VECTORS; i++) store(result + d + i * WIDTH, sums[i]);
}

// Over the row's own tokens up to `position`. `query` and `result` have room for d_kv rounded up to 16; what is behind
// d_kv is zero.
template <class Number>
static void attend_own(const float *query, const Targets &targets, int64_t layer, int64_t head, int64_t row,
                       int64_t position, const HeadBias &bias, float *scores, float *result) {
    auto each_chunk = [&](auto work) {
        for (int64_t c = 0; c < targets.chunks && targets.chunk[c].start <= position; c++) {
            const Chunk &chunk = targets.chunk[c];
            work(OwnKeys<Number>{targets, chunk, layer, head, row}, chunk.start,
                 least(chunk.start + chunk.count, position + 1));
        }
    };
    const Chunk &front = targets.chunk[0];
    if (row + 1 < front.places) OwnKeys<Number>{targets, front, layer, head, row + 1}.fetch(0, OWN_AHEAD);
    each_chunk([&](const OwnKeys<Number> &keys, int64_t first, int64_t end) {
        score_own(query, keys, first, end, scores);
        for (int64_t at = first; at < end; at++) scores[at] += bias.at(at - position);
    });
    soften_one(scores, position + 1);
    for (int64_t d = 0; d < targets.width; d++) result[d] = 0;
    each_chunk([&](const OwnKeys<Number> &keys, int64_t first, int64_t end) {
        if constexpr (IS_SCALED<Number>)
            for (int64_t at = first; at < end; at++) scores[at] *= keys.scales(at)[1];
        int64_t d = 0;
        for (; d + 4 * WIDTH <= targets.width; d += 4 * WIDTH) weigh_own<4>(keys, first, end, scores, d, result);
        for (; d < targets.width; d += WIDTH) weigh_own<1>(keys, first, end, scores, d, result);
    });
}

}  // namespace quintet::QUINTET_ISA

// Attention over a source's tokens (encoder and decoder) and over a target's own (decoder).
#pragma once

#include "rounding.h"
#include "session.h"

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

// -- the encoder: 16 queries of a source, side by side in the lanes, over all its tokens ----------------------------

// scores[key] += sum over d of key[d] * query[d], for KEYS keys that are neighbours in a panel.
template <int KEYS>
INLINE void score_keys(const float *keys, const float *queries, int64_t d_kv, float *scores) {
    Floats sums[KEYS][PARTS] = {};
    for (int64_t d = 0; d < d_kv; d++) {
        Row query = load_row(queries + d * LANES);
#pragma GCC unroll 8
        for (int key = 0; key < KEYS; key++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) sums[key][part] += keys[d * LANES + key] * query.part[part];
    }
    for (int key = 0; key < KEYS; key++)
        for (int part = 0; part < PARTS; part++) store(scores + key * LANES + part * WIDTH, sums[key][part]);
}

// result[d] = sum over keys of weight[key] * value[d], for NUMBERS numbers d.
template <int NUMBERS>
INLINE void weigh_values(const float *values, int64_t stride, const float *weights, int64_t keys, float *result) {
    Floats sums[NUMBERS][PARTS] = {};
    for (int64_t key = 0; key < keys; key++) {
        Row weight = load_row(weights + key * LANES);
        const float *value = values + key / LANES * stride + key % LANES;
#pragma GCC unroll 8
        for (int d = 0; d < NUMBERS; d++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) sums[d][part] += value[d * LANES] * weight.part[part];
    }
    for (int d = 0; d < NUMBERS; d++)
        for (int part = 0; part < PARTS; part++) store(result + d * LANES + part * WIDTH, sums[d][part]);
}

#if defined(__AVX512F__)
constexpr int AT_ONCE = 8;
#elif defined(__AVX2__)
constexpr int AT_ONCE = 4;
#else
constexpr int AT_ONCE = 2;
#endif

constexpr float INVISIBLE = -3e38f;

// In place: scores (keys, 16) plus bias to e^(score - largest); returns each lane's sum.
static Row soften(float *scores, int64_t keys, const HeadBias &bias, const uint8_t *visible, int64_t first_query) {
    Row top;
    for (int part = 0; part < PARTS; part++) top.part[part] = splat(INVISIBLE);
    for (int64_t key = 0; key < keys; key++) {
        float biases[LANES];
        for (int lane = 0; lane < LANES; lane++) biases[lane] = bias.at(key - first_query - lane);
        for (int part = 0; part < PARTS; part++) {
            Floats score = load(scores + key * LANES + part * WIDTH) + load(biases + part * WIDTH);
            if (visible != nullptr && !visible[key]) score = splat(INVISIBLE);
            store(scores + key * LANES + part * WIDTH, score);
            top.part[part] = maximum(top.part[part], score);
        }
    }
    Row total{};
    for (int64_t key = 0; key < keys; key++)
        for (int part = 0; part < PARTS; part++) {
            float *at = scores + key * LANES + part * WIDTH;
            Floats weight = exponential(load(at) - top.part[part]);
            store(at, weight);
            total.part[part] += weight;
        }
    return total;
}

// Queries, keys and values are panels of (inner, 16) numbers; `keys` and `values` begin at the source's first panel and
// at the head's first number. The result takes the queries' place.
static void attend_panel(float *queries, const float *keys, const float *values, int64_t stride, int64_t length,
                         int64_t d_kv, const HeadBias &bias, const uint8_t *visible, int64_t first_query,
                         float *scores) {
    for (int64_t panel = 0; panel * LANES < length; panel++)
        for (int key = 0; key < LANES; key += AT_ONCE)
            score_keys<AT_ONCE>(keys + panel * stride + key, queries, d_kv, scores + (panel * LANES + key) * LANES);
    Row total = soften(scores, length, bias, visible, first_query);
    int64_t d = 0;
    for (; d + AT_ONCE <= d_kv; d += AT_ONCE)
        weigh_values<AT_ONCE>(values + d * LANES, stride, scores, length, queries + d * LANES);
    for (; d < d_kv; d++) weigh_values<1>(values + d * LANES, stride, scores, length, queries + d * LANES);
    for (d = 0; d < d_kv; d++)
        for (int part = 0; part < PARTS; part++) {
            float *at = queries + d * LANES + part * WIDTH;
            store(at, load(at) / total.part[part]);
        }
}

// -- the decoder: one query, lanes along the keys or along d --------------------------------------------------------

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

// Four numbers of a query times four rows of each of PANELS panels of keys, added up.
template <int PANELS, class Number>
INLINE void score_panels(const float *query, const Number *keys, int64_t stride, int64_t d_kv, float *scores) {
    Floats sums[PANELS][PARTS] = {};
    for (int64_t d = 0; d < d_kv; d++)
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++)
                sums[p][part] += query[d] * load(keys + p * stride + d * LANES + part * WIDTH);
    for (int p = 0; p < PANELS; p++)
        for (int part = 0; part < PARTS; part++) store(scores + p * LANES + part * WIDTH, sums[p][part]);
}

// Over a source whose keys and values are panels of (d_kv, 16), `stride` numbers from panel to panel.
template <class Number>
static void attend_source(const float *query, const Number *keys, const Number *values, int64_t stride, int64_t length,
                          int64_t d_kv, float *scores, float *result) {
    int64_t panels = (length + LANES - 1) / LANES, panel = 0;
    for (; panel + 4 <= panels; panel += 4)
        score_panels<4>(query, keys + panel * stride, stride, d_kv, scores + panel * LANES);
    for (; panel < panels; panel++) score_panels<1>(query, keys + panel * stride, stride, d_kv, scores + panel * LANES);
    soften_one(scores, length);
    for (int64_t d = 0; d < d_kv; d += 4) {
        int64_t count = least(4, d_kv - d);
        Floats totals[4] = {};
        for (panel = 0; panel < panels; panel++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                Floats weight = load(scores + panel * LANES + part * WIDTH);
                const Number *value = values + panel * stride + d * LANES + part * WIDTH;
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

    const Number *at(int64_t position) const { return (const Number *)targets.key(chunk, layer, head, row, position); }
};

template <class Number>
INLINE Floats products_of(const float *query, const Number *key, int64_t width) {
    Floats total{};
    for (int64_t d = 0; d < width; d += WIDTH) total += load(query + d) * load(key + d);
    return total;
}

template <class Number>
static void score_own(const float *query, const OwnKeys<Number> &keys, int64_t first, int64_t end, float *scores) {
    int64_t width = keys.targets.width, at = first;
    for (; at + 4 <= end; at += 4) {
        FourFloats four =
            sums_of_four(products_of(query, keys.at(at), width), products_of(query, keys.at(at + 1), width),
                         products_of(query, keys.at(at + 2), width), products_of(query, keys.at(at + 3), width));
        __builtin_memcpy(scores + at, &four, sizeof four);
    }
    for (; at < end; at++) scores[at] = sum(products_of(query, keys.at(at), width));
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
    each_chunk([&](const OwnKeys<Number> &keys, int64_t first, int64_t end) {
        score_own(query, keys, first, end, scores);
        for (int64_t at = first; at < end; at++) scores[at] += bias.at(at - position);
    });
    soften_one(scores, position + 1);
    for (int64_t d = 0; d < targets.width; d++) result[d] = 0;
    each_chunk([&](const OwnKeys<Number> &keys, int64_t first, int64_t end) {
        int64_t d = 0;
        for (; d + 4 * WIDTH <= targets.width; d += 4 * WIDTH) weigh_own<4>(keys, first, end, scores, d, result);
        for (; d < targets.width; d += WIDTH) weigh_own<1>(keys, first, end, scores, d, result);
    });
}

}  // namespace quintet::QUINTET_ISA

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

    float at(int64_t distance) const {
        return middle == nullptr ? 0.f : middle[most(-reach, least(reach, distance))];
    }
};

// -- the encoder: 16 queries of a source, side by side in the lanes, over all its tokens -------------------------------

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

// In place: scores (keys, 16) plus bias to e^(score - largest); returns each lane's sum.
static Row soften(float *scores, int64_t keys, const HeadBias &bias, int64_t first_query) {
    Row top;
    for (int part = 0; part < PARTS; part++) top.part[part] = splat(-3e38f);
    for (int64_t key = 0; key < keys; key++) {
        float biases[LANES];
        for (int lane = 0; lane < LANES; lane++) biases[lane] = bias.at(key - first_query - lane);
        for (int part = 0; part < PARTS; part++) {
            Floats score = load(scores + key * LANES + part * WIDTH) + load(biases + part * WIDTH);
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
                         int64_t d_kv, const HeadBias &bias, int64_t first_query, float *scores) {
    for (int64_t panel = 0; panel * LANES < length; panel++)
        for (int key = 0; key < LANES; key += AT_ONCE)
            score_keys<AT_ONCE>(keys + panel * stride + key, queries, d_kv, scores + (panel * LANES + key) * LANES);
    Row total = soften(scores, length, bias, first_query);
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

// -- the decoder: one query, lanes along the keys or along d -------------------------------------------------------------

// In place: e^(score - largest) over their sum, of `count` scores; up to the next 16 they become 0.
static void soften_one(float *scores, int64_t count) {
    int64_t filled = rounded_up(count, LANES);
    for (int64_t at = count; at < filled; at++) scores[at] = -3e38f;
    Floats top = splat(-3e38f), total{};
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

// Over a source whose keys and values are panels of (d_kv, 16), `stride` numbers from panel to panel.
template <class Number>
static void attend_source(const float *query, const Number *keys, const Number *values, int64_t stride, int64_t length,
                          int64_t d_kv, float *scores, float *result) {
    for (int64_t panel = 0; panel * LANES < length; panel++) {
        const Number *key = keys + panel * stride;
        Floats sums[4][PARTS] = {};
        for (int64_t d = 0; d < d_kv; d += 4)
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                if (d + i < d_kv)
                    for (int part = 0; part < PARTS; part++)
                        sums[i][part] += query[d + i] * load(key + (d + i) * LANES + part * WIDTH);
        for (int part = 0; part < PARTS; part++)
            store(scores + panel * LANES + part * WIDTH,
                  (sums[0][part] + sums[1][part]) + (sums[2][part] + sums[3][part]));
    }
    soften_one(scores, length);
    for (int64_t d = 0; d < d_kv; d++) {
        Floats total{};
        for (int64_t panel = 0; panel * LANES < length; panel++)
            for (int part = 0; part < PARTS; part++)
                total += load(scores + panel * LANES + part * WIDTH) *
                         load(values + panel * stride + d * LANES + part * WIDTH);
        result[d] = sum(total);
    }
}

template <class Number>
INLINE float inner_product(const float *query, const Number *key, int64_t count) {
    Floats total{};
    for (int64_t d = 0; d < count; d += WIDTH) total += load(query + d) * load(key + d);
    return sum(total);
}

// Over the row's own tokens up to `position`. `query` and `result` have room for d_kv rounded up to 16, filled up with zeros.
template <class Number>
static void attend_own(const float *query, const Targets &targets, int64_t layer, int64_t head, int64_t row,
                       int64_t position, const HeadBias &bias, float *scores, float *result) {
    int64_t width = targets.width;
    for (int64_t c = 0; c < targets.chunks; c++) {
        const Chunk &chunk = targets.chunk[c];
        for (int64_t at = chunk.start; at < chunk.start + chunk.count && at <= position; at++)
            scores[at] = inner_product(query, (const Number *)targets.key(chunk, layer, head, row, at), width) +
                         bias.at(at - position);
    }
    soften_one(scores, position + 1);
    for (int64_t d = 0; d < width; d++) result[d] = 0;
    for (int64_t c = 0; c < targets.chunks; c++) {
        const Chunk &chunk = targets.chunk[c];
        for (int64_t at = chunk.start; at < chunk.start + chunk.count && at <= position; at++) {
            const Number *value = (const Number *)targets.key(chunk, layer, head, row, at) + width;
            for (int64_t d = 0; d < width; d += WIDTH)
                store(result + d, load(result + d) + scores[at] * load(value + d));
        }
    }
}

}  // namespace quintet::QUINTET_ISA

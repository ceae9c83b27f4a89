// The encoder's attention: for each head of a source a product of its keys with queries, and of its values with their
// weights.
#pragma once

#include "attention.h"
#include "rounding.h"

namespace quintet::QUINTET_ISA {

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
    quintet_matrix key_matrix() const { return {keys, nullptr, length, width(), TYPE_OF<Number>, 0, 0}; }
    quintet_matrix value_matrix() const { return {values, nullptr, d_kv, filled(), TYPE_OF<Number>, 0, 0}; }

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

}  // namespace quintet::QUINTET_ISA

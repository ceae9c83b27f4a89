// The decoder's attention, for a query or a few: over a source's tokens, lanes along the keys, and over a target's own,
// lanes along d.
#pragma once

#include "attention.h"
#include "rounding.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t MOST_NUMBERS = 256;  // of a head (d_kv)
typedef float HeadNumbers[MOST_NUMBERS];

// Whether keys and values are integers. Their scales then meet scores and weights, of which there are fewer.
template <class Number>
constexpr bool IS_SCALED = sizeof(Number) == 1;

// d_kv of nearly all models: code that knows it is twice as fast.
struct Usual {
    constexpr operator int64_t() const { return 64; }
};

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

// A source's keys and values are panels of (width, 16), two rows at a time: of bfloat16 each word holds a number of
// both.
INLINE Two load_rows(const float *rows, int part) {
    return {load(rows + part * WIDTH), load(rows + LANES + part * WIDTH)};
}
INLINE Two load_rows(const int8_t *rows, int part) {
    return {load(rows + part * WIDTH), load(rows + LANES + part * WIDTH)};
}
INLINE Two load_rows(const Brain *rows, int part) { return load_two(rows + 2 * part * WIDTH); }

template <class Number>
INLINE void prefetch_rows(const Number *rows) {
    for (int64_t byte = 0; byte < 2 * LANES * (int64_t)sizeof(Number); byte += 64)
        prefetch((const uint8_t *)rows + byte);
}

// Products of QUERIES queries with the keys of each of PANELS panels, `line` scores apart. The values behind them,
// needed next, are asked for.
template <int QUERIES, int PANELS, class Number, class Width>
INLINE void score_panels(Width width, const HeadNumbers *query, const Number *keys, int64_t stride, float *scores,
                         int64_t line) {
    constexpr int SUMS = PARTS == 1 ? 2 : 1;  // enough that none waits for the one before, and in registers
    Floats sums[QUERIES][PANELS][SUMS][PARTS] = {};
    for (int64_t d = 0; d < width; d += 2)
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; p++) {
            prefetch_rows(keys + p * stride + (width + d) * LANES);
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                Two rows = load_rows(keys + p * stride + d * LANES, part);
#pragma GCC unroll 4
                for (int q = 0; q < QUERIES; q++) {
                    sums[q][p][0][part] += query[q][d] * rows.first;
                    sums[q][p][SUMS - 1][part] += query[q][d + 1] * rows.second;
                }
            }
        }
    for (int q = 0; q < QUERIES; q++)
        for (int p = 0; p < PANELS; p++)
            for (int part = 0; part < PARTS; part++) {
                Floats total = sums[q][p][0][part];
                if (SUMS > 1) total += sums[q][p][SUMS - 1][part];
                store(scores + q * line + p * LANES + part * WIDTH, total);
            }
}

// The sums of two or four (ROWS) rows of all values by the weights of each query. The next source's keys, `ahead`
// numbers on, are asked for.
template <int QUERIES, int ROWS, class Number>
INLINE void weigh_rows(const float *weights, int64_t line, const Number *values, int64_t stride, int64_t panels,
                       int64_t ahead, HeadNumbers *result, int64_t d) {
    Floats totals[QUERIES][4] = {};
    for (int64_t panel = 0; panel < panels; panel++)
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; i += 2) {
            const Number *rows = values + panel * stride + (d + i) * LANES;
            prefetch_rows(rows + ahead);
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                Two two = load_rows(rows, part);
#pragma GCC unroll 4
                for (int q = 0; q < QUERIES; q++) {
                    Floats weight = load(weights + q * line + panel * LANES + part * WIDTH);
                    totals[q][i] += weight * two.first;
                    totals[q][i + 1] += weight * two.second;
                }
            }
        }
    for (int q = 0; q < QUERIES; q++) {
        FourFloats four = sums_of_four(totals[q][0], totals[q][1], totals[q][2], totals[q][3]);
        __builtin_memcpy(result[q] + d, &four, 4 * ROWS);
    }
}

template <int QUERIES, class Number, class Width>
INLINE void attend_source_of(Width width, const HeadNumbers *query, const Number *keys, int64_t stride, int64_t length,
                             float *scores, HeadNumbers *result) {
    const Number *values = keys + width * LANES;
    const int64_t line = rounded_up(length, LANES), panels = line / LANES, ahead = panels * stride - width * LANES;
    constexpr int AT_ONCE = 4 / QUERIES;
    int64_t panel = 0, d = 0;
    for (; panel + AT_ONCE <= panels; panel += AT_ONCE)
        score_panels<QUERIES, AT_ONCE>(width, query, keys + panel * stride, stride, scores + panel * LANES, line);
    for (; panel < panels; panel++)
        score_panels<QUERIES, 1>(width, query, keys + panel * stride, stride, scores + panel * LANES, line);
    for (int q = 0; q < QUERIES; q++) {
        auto multiply_by_scales = [&](int64_t which) {
            if constexpr (IS_SCALED<Number>)
                for (int64_t at = 0; at < line; at += WIDTH) {
                    const Number *scales = keys + at / LANES * stride + 2 * width * LANES;
                    Floats scale = load((const float *)scales + which * LANES + at % LANES);
                    store(scores + q * line + at, load(scores + q * line + at) * scale);
                }
        };
        multiply_by_scales(0);
        soften_one(scores + q * line, length);
        multiply_by_scales(1);
    }
    for (; d + 4 <= width; d += 4)
        weigh_rows<QUERIES, 4>(scores, line, values, stride, panels, ahead, result, d);
    if (d < width) weigh_rows<QUERIES, 2>(scores, line, values, stride, panels, ahead, result, d);
}

// `count` queries, QUERIES at most, over a source whose keys are panels of (width, 16), each with its values and, if
// there are any, the scales of both behind it; `stride` numbers from panel to panel. `scores` has room for those of all
// queries.
template <class Number, int QUERIES = QUERIES_TOGETHER>
static void attend_source(int64_t count, const HeadNumbers *query, const Number *keys, int64_t stride, int64_t length,
                          int64_t width, float *scores, HeadNumbers *result) {
    if constexpr (QUERIES > 1)
        if (count < QUERIES)
            return attend_source<Number, QUERIES - 1>(count, query, keys, stride, length, width, scores, result);
    if (width == Usual{}) attend_source_of<QUERIES>(Usual{}, query, keys, stride, length, scores, result);
    else attend_source_of<QUERIES>(width, query, keys, stride, length, scores, result);
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

};

constexpr int64_t OWN_AHEAD = 12;  // positions; of the next row, too

// A key, and its value, will be needed soon; they lie too scattered for the processor to foresee it. Inline, since GCC
// leaves out calls of a function that only prefetches.
template <class Number>
INLINE void fetch_own(int64_t width, const Number *key) {
    const auto *from = (const uint8_t *)key;
    for (int64_t byte = 0; byte < 2 * width * (int64_t)sizeof(Number); byte += 64) prefetch(from + byte);
}

// In place: a query's numbers, or a result's, in the order of load_two, or (BACK) as they were.
template <class Number, bool BACK, class Width>
INLINE void reorder(Width width, float *numbers) {
    if constexpr (sizeof(Number) == 2)
        for (int64_t d = 0; d < width; d += 2 * WIDTH) {
            Floats first = load(numbers + d), second = load(numbers + d + WIDTH);
            Ints low, high;
            for (int i = 0; i < WIDTH; i++) {
                low[i] = BACK ? i / 2 + i % 2 * WIDTH : 2 * i;
                high[i] = BACK ? (i + WIDTH) / 2 + i % 2 * WIDTH : 2 * i + 1;
            }
            store(numbers + d, __builtin_shuffle(first, second, low));
            store(numbers + d + WIDTH, __builtin_shuffle(first, second, high));
        }
}

template <class Number, class Width>
INLINE Floats products_of(const float *query, const Number *key, Width width) {
    Floats first{}, second{};
    for (int64_t d = 0; d < width; d += 2 * WIDTH) {
        Two two = load_two(key + d);
        first += load(query + d) * two.first;
        second += load(query + d + WIDTH) * two.second;
    }
    return first + second;
}

template <class Number, class Width>
INLINE void score_own(Width width, const float *query, const Number *const *slots, int64_t count, float *scores) {
    int64_t at = 0, next = 0;
    auto fetch = [&](int64_t end) {
        for (; next < least(end, count); next++) fetch_own(width, slots[next]);
    };
    fetch(OWN_AHEAD);
    for (; at + 4 <= count; at += 4) {
        fetch(at + OWN_AHEAD + 4);
        auto product = [&](int64_t i) { return products_of(query, slots[at + i], width); };
        FourFloats four = sums_of_four(product(0), product(1), product(2), product(3));
        __builtin_memcpy(scores + at, &four, sizeof four);
    }
    for (; at < count; at++) scores[at] = sum(products_of(query, slots[at], width));
}

// result[d ...] += the weighted sum of 2 * TWOS vectors of each value.
template <int TWOS, class Number, class Width>
INLINE void weigh_own(Width width, const Number *const *slots, int64_t count, const float *weights, int64_t d,
                      float *result) {
    Floats sums[2 * TWOS];
    for (int i = 0; i < 2 * TWOS; i++) sums[i] = load(result + d + i * WIDTH);
    for (int64_t at = 0; at < count; at++) {
#pragma GCC unroll 4
        for (int i = 0; i < TWOS; i++) {
            Two two = load_two(slots[at] + width + d + 2 * i * WIDTH);
            sums[2 * i] += weights[at] * two.first;
            sums[2 * i + 1] += weights[at] * two.second;
        }
    }
    for (int i = 0; i < 2 * TWOS; i++) store(result + d + i * WIDTH, sums[i]);
}

// Over the row's own tokens up to `position`. `query` and `result` have room for `targets.width` numbers, those behind
// d_kv are zero; the query does not stay as it was.
template <class Number, class Width>
INLINE void attend_own_of(Width width, float *query, const Targets &targets, int64_t layer, int64_t head, int64_t row,
                          int64_t position, const HeadBias &bias, float *scores, float *result) {
    auto each_chunk = [&](auto work) {
        for (int64_t c = 0; c < targets.chunks && targets.chunk[c].start <= position; c++) {
            const Chunk &chunk = targets.chunk[c];
            OwnKeys<Number> keys{targets, chunk, layer, head, row};
            const Number *slots[Chunk::SPAN];
            int64_t count = least(chunk.count, position + 1 - chunk.start);
            for (int64_t at = 0; at < count; at++) slots[at] = keys.at(chunk.start + at);
            work(keys, slots, count, scores + chunk.start);
        }
    };
    const Chunk &front = targets.chunk[0];
    if (row + 1 < front.places)
        for (int64_t next = 0; next < least(OWN_AHEAD, front.count); next++)
            fetch_own(width, OwnKeys<Number>{targets, front, layer, head, row + 1}.at(next));
    reorder<Number, false>(width, query);
    each_chunk([&](const auto &keys, const auto &slots, int64_t count, float *to) {
        score_own(width, query, slots, count, to);
        if constexpr (IS_SCALED<Number>)
            for (int64_t at = 0; at < count; at++) to[at] *= keys.scales(keys.chunk.start + at)[0];
    });
    bias.add(scores, position);
    soften_one(scores, position + 1);
    for (int64_t d = 0; d < width; d++) result[d] = 0;
    each_chunk([&](const auto &keys, const auto &slots, int64_t count, float *weights) {
        if constexpr (IS_SCALED<Number>)
            for (int64_t at = 0; at < count; at++) weights[at] *= keys.scales(keys.chunk.start + at)[1];
        int64_t d = 0;
        for (; d + 4 * WIDTH <= width; d += 4 * WIDTH) weigh_own<2>(width, slots, count, weights, d, result);
        for (; d < width; d += 2 * WIDTH) weigh_own<1>(width, slots, count, weights, d, result);
    });
    reorder<Number, true>(width, result);
}

template <class Number>
static void attend_own(float *query, const Targets &targets, int64_t layer, int64_t head, int64_t row,
                       int64_t position, const HeadBias &bias, float *scores, float *result) {
    if (targets.width == Usual{})
        return attend_own_of<Number>(Usual{}, query, targets, layer, head, row, position, bias, scores, result);
    attend_own_of<Number>(targets.width, query, targets, layer, head, row, position, bias, scores, result);
}

}  // namespace quintet::QUINTET_ISA

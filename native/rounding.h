// From a block of float32 numbers to what the next product takes: normalised, rounded and laid out.
//
// A block holds `size` numbers of L tokens: number i of token t at i * L + t. L is 16 (a panel) or 1.
#pragma once

#include "products.h"

namespace quintet::QUINTET_ISA {

// Vectors of a row of a panel.
struct Row {
    Floats part[PARTS];
};

INLINE Row load_row(const float *from) {
    Row row;
    for (int part = 0; part < PARTS; part++) row.part[part] = load(from + part * WIDTH);
    return row;
}

INLINE float inverse_root(float mean) { return 1.f / __builtin_sqrtf(mean); }

// What each token's numbers are multiplied by to have a mean square of 1, times `factor`.
template <int L>
static void norm_factors(const float *block, int64_t size, float epsilon, float factor, float *factors) {
    if constexpr (L == 1) {
        Floats squares{};
        int64_t at = 0;
        for (; at + WIDTH <= size; at += WIDTH) squares += load(block + at) * load(block + at);
        float total = sum(squares);
        for (; at < size; at++) total += block[at] * block[at];
        factors[0] = factor * inverse_root(total / (float)size + epsilon);
    } else {
        Row squares{};
        for (int64_t at = 0; at < size; at++) {
            Row row = load_row(block + at * L);
            for (int part = 0; part < PARTS; part++) squares.part[part] += row.part[part] * row.part[part];
        }
        for (int lane = 0; lane < L; lane++) {
            float total = squares.part[lane / WIDTH][lane % WIDTH];
            factors[lane] = factor * inverse_root(total / (float)size + epsilon);
        }
    }
}

// The block with each token's numbers times its factor and the norm's weights.
template <int L>
static void normalize(const float *block, int64_t size, const quintet_matrix &norm, float epsilon, float factor,
                      float *result) {
    float factors[L];
    norm_factors<L>(block, size, epsilon, factor, factors);
    if constexpr (L == 1) {
        for (int64_t at = 0; at < size; at++) result[at] = block[at] * factors[0] * number_at(norm.data, norm.type, at);
    } else {
        Row times = load_row(factors);
        for (int64_t at = 0; at < size; at++) {
            Row row = load_row(block + at * L);
            float weight = number_at(norm.data, norm.type, at);
            for (int part = 0; part < PARTS; part++)
                store(result + at * L + part * WIDTH, row.part[part] * times.part[part] * weight);
        }
    }
}

// Of each token, 127 over its largest number; what the integers stand for goes to `scale`.
template <int L>
static void int8_factors(const float *block, int64_t size, float *factors, float *scale) {
    float largest_of[L];
    if constexpr (L == 1) {
        Floats found{};
        int64_t at = 0;
        for (; at + WIDTH <= size; at += WIDTH) found = maximum(found, magnitude(load(block + at)));
        largest_of[0] = largest(found);
        for (; at < size; at++)
            largest_of[0] = absolute(block[at]) > largest_of[0] ? absolute(block[at]) : largest_of[0];
    } else {
        Row found{};
        for (int64_t at = 0; at < size; at++) {
            Row row = load_row(block + at * L);
            for (int part = 0; part < PARTS; part++)
                found.part[part] = maximum(found.part[part], magnitude(row.part[part]));
        }
        for (int part = 0; part < PARTS; part++) store(largest_of + part * WIDTH, found.part[part]);
    }
    for (int lane = 0; lane < L; lane++) {
        float top = largest_of[lane];
        factors[lane] = top > 0 ? 127.f / top : 0.f;
        scale[lane] = top / 127.f;
    }
}

// Leaves of each number what rounding to int8 takes from it. Half way between two integers this may go the other way
// than the rounding itself, whose product and sum are one instruction: such a number is off by one of 127.
template <int L>
static void keep_remainder(float *block, int64_t size) {
    float factors[L], scale[L];
    int8_factors<L>(block, size, factors, scale);
    for (int64_t at = 0; at < size; at++)
        for (int lane = 0; lane < L; lane++) {
            float &number = block[at * L + lane];
            number -= scale[lane] * __builtin_rintf(number * factors[lane]);
        }
}

// Rows of 64 bytes: four inputs of each token.
static void round_to_bytes_by_panel(const float *panel, int64_t size, const Packed &x, int64_t number) {
    float factors[LANES];
    int8_factors<LANES>(panel, size, factors, x.scale + number * LANES);
    const bool is_int4 = x.type == QUINTET_INT4;
    uint8_t *to = x.data + number * x.stride;
    int32_t *totals = x.total + number * LANES * x.totals;
    Row times = load_row(factors);
    for (int part = 0; part < PARTS; part++) {
        Ints total{};
        for (int64_t first = 0; first < size; first += 4) {
            Words word{};
            for (int byte = 0; byte < 4 && first + byte < size; byte++) {
                Floats value = load(panel + (first + byte) * LANES + part * WIDTH) * times.part[part];
                Ints rounded = to_nearest(value);
                total += rounded;
                word |= ((Words)rounded & 255u) << (8 * byte);
            }
            store(to + first * LANES + part * BYTES, word);
            if ((first + 4) % x.span == 0 || first + 4 >= size) {
                Ints kept = is_int4 ? total * -8 : total;
                __builtin_memcpy(totals + first / x.span * LANES + part * WIDTH, &kept, sizeof kept);
                total = Ints{};
            }
        }
    }
}

INLINE void round_row(const float *token, int64_t size, float factor, int8_t *bytes) {
    int64_t at = 0;
    for (; at + WIDTH <= size; at += WIDTH) store_bytes(bytes + at, to_nearest(load(token + at) * factor));
    for (; at < size; at++) bytes[at] = (int8_t)__builtin_lrintf(token[at] * factor);
}

static void round_to_bytes(const float *token, int64_t size, const Packed &x, int64_t number) {
    float factor;
    int8_factors<1>(token, size, &factor, x.scale + number);
    int8_t *bytes = (int8_t *)(x.data + number * x.stride);
    round_row(token, size, factor, bytes);
    int32_t total = 0;
    for (int64_t at = 0; at < size; at++) total += bytes[at];
    x.total[number] = total;
}

// Of each 2 * BYTES inputs first those of even number, then the others.
static void round_to_halves(const float *token, int64_t size, const Packed &x, int64_t number) {
    float factor;
    int8_factors<1>(token, size, &factor, x.scale + number);
    for (int64_t first = 0; first < x.stride; first += 2 * BYTES) {
        int8_t in_order[2 * BYTES] = {}, *bytes = (int8_t *)(x.data + number * x.stride + first);
        int32_t *totals = x.total + number * x.totals + first / 8;
        if (first < size) round_row(token + first, least(2 * BYTES, size - first), factor, in_order);
        for (int i = 0; i < BYTES; i++) {
            bytes[i] = in_order[2 * i];
            bytes[BYTES + i] = in_order[2 * i + 1];
        }
        for (int lane = 0; lane < WIDTH; lane++) {
            int32_t total = 0;
            for (int i = 0; i < 8; i++) total += in_order[8 * lane + i];
            totals[lane] = -8 * total;
        }
    }
}

// One or two rows' numbers of a panel, `left` of which are there, as words of a row that a product takes.
template <class Number>
INLINE Words word_of(const float *from, int64_t left) {
    if constexpr (sizeof(Number) == 4) return load_as<Words>(from);
    else return bfloat16_pairs(load(from), left > 1 ? load(from + LANES) : Floats{});
}

static void round_to_brains_by_panel(const float *panel, int64_t size, uint8_t *to) {
    for (int64_t at = 0; at < size; at += 2)
        for (int part = 0; part < PARTS; part++)
            store(to + at / 2 * 64 + part * BYTES, word_of<Brain>(panel + at * LANES + part * WIDTH, size - at));
}

// Block number `number` of the tokens that a product with weights of type x.type takes, filled up with zeros.
template <int L>
static void round_block(const float *block, int64_t size, const Packed &x, int64_t number) {
    uint8_t *to = x.data + number * x.stride;
    if constexpr (L == 1) {
        int64_t used = size * element_size(x.type);
        __builtin_memset(to + used, 0, x.stride - used);
    }
    if (x.type == QUINTET_FLOAT32) {
        __builtin_memcpy(to, block, size * L * 4);
    } else if (x.type == QUINTET_BFLOAT16) {
        if constexpr (L == 1) {
            int64_t at = 0;
            for (; at + WIDTH <= size; at += WIDTH) store_brain((Brain *)to + at, load(block + at));
            for (; at < size; at++) ((Brain *)to)[at] = to_brain(block[at]);
        } else {
            round_to_brains_by_panel(block, size, to);
        }
    } else if constexpr (L == 1) {
        if (x.type == QUINTET_INT4) round_to_halves(block, size, x, number);
        else round_to_bytes(block, size, x, number);
    } else {
        round_to_bytes_by_panel(block, size, x, number);
    }
}

// A token's key or value, a number of vectors, as it is kept; its scale, only with integers.
template <class Number>
INLINE void keep_numbers(const float *numbers, int64_t size, Number *to, float *scale) {
    float factor = 1.f;
    if constexpr (sizeof(Number) == 1) int8_factors<1>(numbers, size, &factor, scale);
    for (int64_t at = 0; at < size; at += WIDTH) {
        if constexpr (sizeof(Number) == 1) store_bytes(to + at, to_nearest(load(numbers + at) * factor));
        else store_as(to + at, load(numbers + at));
    }
}

// A panel's keys or values as they are kept: two rows at a time, of bfloat16 in one word. A last row alone has zeros
// beside it. Scales, of each token, only with integers.
template <class Number>
static void keep_rows(const float *block, int64_t rows, Number *to, float *scales) {
    if constexpr (sizeof(Number) == 2) return round_to_brains_by_panel(block, rows, (uint8_t *)to);
    float factors[LANES];
    if constexpr (sizeof(Number) == 1) int8_factors<LANES>(block, rows, factors, scales);
    for (int64_t at = 0; at < rounded_up(rows, 2) * LANES; at += WIDTH) {
        Floats numbers = at < rows * LANES ? load(block + at) : Floats{};
        if constexpr (sizeof(Number) == 1) store_bytes(to + at, to_nearest(numbers * load(factors + at % LANES)));
        if constexpr (sizeof(Number) == 4) store(to + at, numbers);
    }
}

// gate = activation(gate) * up, or activation(gate) without `up`.
INLINE void activate_all(float *gate, const float *up, int64_t count, int32_t activation) {
    int64_t at = 0;
    for (; at + WIDTH <= count; at += WIDTH) {
        Floats value = activate(load(gate + at), activation);
        store(gate + at, up == nullptr ? value : value * load(up + at));
    }
    for (; at < count; at++) {
        float value = activate(splat(gate[at]), activation)[0];
        gate[at] = up == nullptr ? value : value * up[at];
    }
}

}  // namespace quintet::QUINTET_ISA

// Products of int4: two weights a byte, 0 to 15 and standing for -8 to 7.
//
// For few tokens the lower halves of bytes, inputs of even number, meet the tokens' even numbers, the upper the others,
// which are kept apart likewise; for many see int4_panels.h. Integers are added up within a group and meet its scale as
// floats.
#pragma once

#include "numbers.h"

namespace quintet::QUINTET_ISA {

constexpr uint32_t LOWER_HALVES = 0x0f0f0f0f;

INLINE int64_t group_size(const quintet_matrix &w) { return w.group == 0 ? w.inputs : w.group; }

// The first `count` numbers, which must be there, and zeros.
INLINE Floats load_first(const float *from, int count) {
#if defined(__AVX512F__)
    return (Floats)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
#elif defined(__AVX2__)
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (Floats)_mm256_maskload_ps(from, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes));
#else
    Floats value{};
    for (int i = 0; i < count; i++) value[i] = from[i];
    return value;
#endif
}

INLINE Floats load_first(const Brain *from, int count) {
#if defined(__AVX512F__)
    return (Floats)((Words)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), from)) << 16);
#else
    Floats value{};
    for (int i = 0; i < count; i++) value[i] = to_float(from[i]);
    return value;
#endif
}

// Adds products of weights' lower and upper halves. AVX2's sums of four of them are far from saturating.
INLINE Ints add_halves(Ints sum, Words low, Words even, Words high, Words odd) {
#if defined(__AVX2__) && !defined(__AVX512F__)
    __m256i pairs = _mm256_add_epi16(_mm256_maddubs_epi16((__m256i)low, (__m256i)even),
                                     _mm256_maddubs_epi16((__m256i)high, (__m256i)odd));
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    return add_bytes(add_bytes(sum, low, even), high, odd);
#endif
}

// A vector of weights' bytes holds 2 * BYTES inputs: part of a group, or several groups.
template <class Scale, int ROWS, int TOKENS>
INLINE void token_tile_int4(const quintet_matrix &w, const Rows &rows, const Packed &x, int64_t token, float *out,
                            const Target &to) {
    constexpr int64_t INPUTS = 2 * BYTES;
    Floats results[ROWS][TOKENS] = {};
    const int64_t bytes = row_bytes(w), group = group_size(w), groups = w.inputs / group;
    const uint8_t *weights = (const uint8_t *)w.data + rows.first * bytes;
    const uint8_t *tokens = x.data + token * x.stride;
    const int64_t distance = rows.apart * bytes;
    const int lanes = group < INPUTS ? (int)(group / 8) : WIDTH;  // of one group
    Ints scale_of_lane;
    for (int lane = 0; lane < WIDTH; lane++) scale_of_lane[lane] = lane / lanes;
    int64_t first = 0, end_of_first = group;  // the group that a step begins in
    auto step = [&](int64_t at, auto size) {  // `at` counts bytes of weights
        Words even[TOKENS], odd[TOKENS];
        Ints total[TOKENS];
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) {
            even[t] = load_as<Words>(tokens + t * x.stride + 2 * at);
            odd[t] = load_as<Words>(tokens + t * x.stride + 2 * at + BYTES);
            total[t] = load_as<Ints>(x.total + (token + t) * x.totals + at / 4);
        }
        for (; end_of_first <= 2 * at; end_of_first += group) first++;  // a division takes longer
        int present = (int)least(WIDTH / lanes, groups - first);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            prefetch(weights + r * distance + at + rows.ahead);
            Words pairs = load_part(weights + r * distance + at, size);
            Words low = pairs & LOWER_HALVES, high = pairs >> 4 & LOWER_HALVES;
            const Scale *scales = (const Scale *)w.scale + (rows.first + r * rows.apart) * groups + first;
            Floats scale = lanes == WIDTH ? splat(to_float(*scales))
                                          : __builtin_shuffle(load_first(scales, present), scale_of_lane);
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++)
                results[r][t] += to_floats(add_halves(total[t], low, even[t], high, odd[t])) * scale;
        }
    };
    int64_t at = 0;
    struct All {
        constexpr operator int64_t() const { return BYTES; }
    };
    for (; at + BYTES <= bytes; at += BYTES) step(at, All{});
    if (at < bytes) step(at, bytes - at);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
        FourFloats sums{};
        if constexpr (ROWS == 4) sums = sums_of_four(results[0][t], results[1][t], results[2][t], results[3][t]);
        else sums[0] = sum(results[0][t]);
        for (int r = 0; r < ROWS; r++) {
            float *place = out + t * to.stride + r * rows.apart, result = sums[r] * x.scale[token + t];
            *place = to.adds ? *place + result : result;
        }
    }
}

}  // namespace quintet::QUINTET_ISA

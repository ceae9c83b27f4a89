// How tokens' numbers are laid out, and what kernels do with a vector of them.
#pragma once

#include "vectors.h"

namespace quintet::QUINTET_ISA {

// Numbers of tokens, rounded and laid out as the weights they will meet ask for.
struct Packed {
    uint8_t *data;
    int64_t stride;  // bytes from panel (or token) to panel
    float *scale;    // of integers: one a token
    int32_t *total;  // int8: the sum of a token's integers; int4: -8 times the sums of `span` of them
    int64_t totals;  // how many of these a token has
    int32_t type;    // of the numbers: as the weights', or rounded_type
    int64_t span;
    int64_t panels;
};

constexpr int element_size(int32_t type) { return type == QUINTET_FLOAT32 ? 4 : type == QUINTET_BFLOAT16 ? 2 : 1; }

// What L tokens' numbers are rounded to for weights of this type.
template <int L>
constexpr int32_t rounded_type(int32_t weights) {
#if defined(__AMX_TILE__)
    if (L == LANES && weights == QUINTET_INT4) return QUINTET_BFLOAT16;  // int4_panels.h
#endif
    return weights;
}

// One of some numbers that are float32 or bfloat16.
INLINE float number_at(const void *numbers, int32_t type, int64_t index) {
    return type == QUINTET_FLOAT32 ? ((const float *)numbers)[index] : to_float(((const Brain *)numbers)[index]);
}

INLINE float scale_at(const quintet_matrix &w, int64_t index) { return number_at(w.scale, w.scale_type, index); }

INLINE int64_t row_bytes(const quintet_matrix &w) {
    return w.type == QUINTET_INT4 ? w.inputs / 2 : w.inputs * element_size(w.type);
}

// What the kernels do with four bytes of weights and of tokens' numbers in every lane, and with the sums in the end.
struct FloatMath {
    typedef Floats Sum;
    INLINE Words prepare(Words weights) { return weights; }
    INLINE Sum add(Sum sum, Words w, Words x) { return sum + (Floats)w * (Floats)x; }
    INLINE Floats finish(Sum sum, const quintet_matrix &, int64_t, const Packed &, int64_t) { return sum; }
    INLINE FourFloats finish(FourFloats sums, FourFloats, const Packed &, int64_t) { return sums; }
};

struct BrainMath {
    typedef Floats Sum;
    INLINE Words prepare(Words weights) { return weights; }
    INLINE Sum add(Sum sum, Words w, Words x) {
#if defined(__AVX512BF16__) && !defined(__AMX_TILE__)  // with AMX, this instruction is slower than the lines below
        return (Sum)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x);
#else
        sum = sum + (Floats)(w << 16) * (Floats)(x << 16);
        return sum + (Floats)(w & 0xffff0000u) * (Floats)(x & 0xffff0000u);
#endif
    }
    INLINE Floats finish(Sum sum, const quintet_matrix &, int64_t, const Packed &, int64_t) { return sum; }
    INLINE FourFloats finish(FourFloats sums, FourFloats, const Packed &, int64_t) { return sums; }
};

// Adds products of unsigned and signed bytes, four to a lane. AVX2's sums of two saturate beyond 32,767.
INLINE Ints add_bytes(Ints sum, Words unsigned_bytes, Words signed_bytes) {
#if defined(__AVX512VNNI__)
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)unsigned_bytes, (__m512i)signed_bytes);
#elif defined(__AVX2__) && !defined(__AVX512F__)
    __m256i pairs = _mm256_maddubs_epi16((__m256i)unsigned_bytes, (__m256i)signed_bytes);
    return sum + (Ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
    Words u = unsigned_bytes;
    Ints s = (Ints)signed_bytes;
    sum = sum + (Ints)(u >> 24) * (s >> 24);
    sum = sum + (Ints)(u >> 16 & 255) * (s << 8 >> 24);
    sum = sum + (Ints)(u >> 8 & 255) * (s << 16 >> 24);
    return sum + (Ints)(u & 255) * (s << 24 >> 24);
#endif
}

// A constant in a vector that the compiler knows nothing of. It would change a number in a general register before it is
// broadcast, which takes four times as long as a broadcast from memory into the vector instruction.
INLINE Words hidden(uint32_t value) {
    Words vector = splat_word(value);
#if defined(__AVX512F__)
    asm("" : "+v"(vector));
#endif
    return vector;
}

// Both factors are signed, the instructions want one that is not. With VNNI it is w + 128, and 128 times the sum of the
// token's numbers is taken off in the end. AVX2 would saturate; there the weight's sign goes to the token's number, and
// two products of |w| <= 128 and |x| <= 127 stay below 32,767.
struct ByteMath {
    typedef Ints Sum;
#if defined(__AVX2__) && !defined(__AVX512VNNI__)
    static constexpr int OFFSET = 0;
    INLINE Words prepare(Words weights) { return weights; }
    INLINE Sum add(Sum sum, Words w, Words x) {
        return add_bytes(sum, (Words)_mm256_abs_epi8((__m256i)w), (Words)_mm256_sign_epi8((__m256i)x, (__m256i)w));
    }
#else
    static constexpr int OFFSET = 128;
    INLINE Words prepare(Words weights) { return weights ^ hidden(0x80808080u); }
    INLINE Sum add(Sum sum, Words w, Words x) { return add_bytes(sum, w, x); }
#endif
    INLINE Floats finish(Sum sum, const quintet_matrix &w, int64_t row, const Packed &x, int64_t token) {
        Ints exact = sum - OFFSET * (Ints)load_as<Words>(x.total + token);
        return to_floats(exact) * (scale_at(w, row) * load(x.scale + token));
    }
    INLINE FourFloats finish(FourInts sums, FourFloats scale, const Packed &x, int64_t token) {
        return __builtin_convertvector(sums - OFFSET * x.total[token], FourFloats) * (scale * x.scale[token]);
    }
};

INLINE Words load_part(const uint8_t *from, int64_t bytes) {
    Words value{};
    __builtin_memcpy(&value, from, bytes);
    return value;
}

INLINE Words broadcast(const uint8_t *from, int64_t bytes) {
    uint32_t word = 0;
    __builtin_memcpy(&word, from, bytes);
    return splat_word(word);
}

// Panels: weights are read in bands of some rows, each row a stream of its own and too short for the processor to
// foresee the next band. So each step asks for the same place of a later band, at least this many bytes ahead.
constexpr int64_t AHEAD = 4096;

INLINE int64_t bytes_ahead(int64_t band) { return rounded_up(AHEAD, band); }

// Rows of weights that few tokens meet at once: the first of them, and how far they are apart; each is a stream, of which
// is asked for so many bytes ahead.
struct Rows {
    int64_t first, apart, ahead;
};

// The more tokens, the longer the processor is busy with the rows that are there, and does not look ahead by itself.
INLINE int64_t bytes_ahead_of_tokens(int64_t tokens) { return tokens > 4 ? 3072 : 1024; }

INLINE void prefetch(const uint8_t *from) { __builtin_prefetch(from, 0, 2); }

// Where results go: number n of a token to out[panel * stride + n * L + lane], in place of what is there or onto it.
struct Target {
    float *out;
    int64_t stride;
    bool adds;
};

INLINE void put(float *at, Floats result, bool adds) { store(at, adds ? load(at) + result : result); }

}  // namespace quintet::QUINTET_ISA

// Vectors of the width that the instruction set has. Included by each kernel file, which is compiled once for every
// instruction set (QUINTET_ISA): everything here is in a namespace of its own, so that the linker cannot put code for
// one processor in place of another's. For the same reason nothing of the standard library is used here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "quintet.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

namespace quintet::QUINTET_ISA {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif

constexpr int LANES = 16;             // tokens side by side in a panel
constexpr int PARTS = LANES / WIDTH;  // vectors that hold one number of each of them
constexpr int BYTES = 4 * WIDTH;

typedef float Floats __attribute__((vector_size(BYTES)));
typedef int32_t Ints __attribute__((vector_size(BYTES)));
typedef uint32_t Words __attribute__((vector_size(BYTES)));
typedef uint8_t Octets __attribute__((vector_size(BYTES)));

struct Brain {  // bfloat16: the upper half of a float
    uint16_t bits;
};

template <class Vector>
INLINE Vector load_as(const void *from) {
    Vector value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

INLINE Floats load(const float *from) { return load_as<Floats>(from); }

INLINE Floats load(const Brain *from) {
    typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
#if defined(__AVX512F__)  // which the compiler would do in two halves
    return (Floats)((Words)_mm512_cvtepu16_epi32((__m256i)load_as<Halves>(from)) << 16);
#else
    return (Floats)(__builtin_convertvector(load_as<Halves>(from), Words) << 16);
#endif
}

INLINE Floats load(const int8_t *from) {
#if defined(__AVX512F__)
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
#elif defined(__AVX2__)
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
#else
    typedef int8_t Narrow __attribute__((vector_size(WIDTH)));
    return __builtin_convertvector(load_as<Narrow>(from), Floats);
#endif
}

// Two vectors of numbers that lie behind each other: of bfloat16 those of even number and those of odd, since a word
// holds one of each.
struct Two {
    Floats first, second;
};

INLINE Two load_two(const float *from) { return {load(from), load(from + WIDTH)}; }
INLINE Two load_two(const int8_t *from) { return {load(from), load(from + WIDTH)}; }
INLINE Two load_two(const Brain *from) {
    Words words = load_as<Words>(from);
    return {(Floats)(words << 16), (Floats)(words & 0xffff0000u)};
}

INLINE void store(void *to, Floats value) { __builtin_memcpy(to, &value, sizeof value); }
INLINE void store(void *to, Words value) { __builtin_memcpy(to, &value, sizeof value); }

INLINE Floats splat(float value) { return value - Floats{}; }
INLINE Words splat_word(uint32_t value) { return value - Words{}; }
INLINE Floats to_floats(Ints value) { return __builtin_convertvector(value, Floats); }
INLINE Floats maximum(Floats a, Floats b) { return a > b ? a : b; }
INLINE Floats minimum(Floats a, Floats b) { return a < b ? a : b; }
INLINE Floats magnitude(Floats a) { return (Floats)((Words)a & 0x7fffffffu); }

// Rounded to nearest, ties to even, and left in the upper half of each word.
INLINE Words to_brain(Floats value) {
    Words bits = (Words)value;
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u;
}

// Two of them in each word, the first below.
INLINE Words bfloat16_pairs(Floats first, Floats second) {
#if defined(__AVX512BF16__)
    typedef uint16_t Halves __attribute__((vector_size(BYTES)));
    Halves behind_each_other = (Halves)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first), order;
    for (int i = 0; i < 2 * WIDTH; i++) order[i] = (uint16_t)(i / 2 + i % 2 * WIDTH);
    return (Words)__builtin_shuffle(behind_each_other, order);
#else
    return to_brain(first) >> 16 | to_brain(second);
#endif
}

INLINE void store_brain(Brain *to, Floats value) {
    typedef uint16_t Halves __attribute__((vector_size(2 * WIDTH)));
    Halves halves = __builtin_convertvector(to_brain(value) >> 16, Halves);
    __builtin_memcpy(to, &halves, sizeof halves);
}

INLINE void store_as(float *to, Floats value) { store(to, value); }
INLINE void store_as(Brain *to, Floats value) { store_brain(to, value); }

INLINE float to_float(float value) { return value; }
INLINE float to_float(Brain value) {
    uint32_t bits = (uint32_t)value.bits << 16;
    float result;
    __builtin_memcpy(&result, &bits, 4);
    return result;
}

INLINE Brain to_brain(float value) {
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    return {(uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// To the nearest integer, of numbers below 2^22: at 1.5 * 2^23 a float's last digit counts ones.
INLINE Ints to_nearest(Floats value) { return (Ints)(value + 12582912.f) - 0x4b400000; }

INLINE void store_bytes(int8_t *to, Ints value) {
    typedef int8_t Narrow __attribute__((vector_size(WIDTH)));
    Narrow narrow = __builtin_convertvector(value, Narrow);
    __builtin_memcpy(to, &narrow, sizeof narrow);
}

typedef float FourFloats __attribute__((vector_size(16)));
typedef int32_t FourInts __attribute__((vector_size(16)));

// The sums of four vectors' lanes, side by side.
INLINE FourFloats sums_of_four(Floats a, Floats b, Floats c, Floats d) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    auto half = [](Floats v) {
        return _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    };
#else
    auto half = [](Floats v) { return (__m256)v; };
#endif
    __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(half(a), half(b)), _mm256_hadd_ps(half(c), half(d)));
    return (FourFloats)_mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
#else
    return FourFloats{a[0] + a[1] + a[2] + a[3], b[0] + b[1] + b[2] + b[3], c[0] + c[1] + c[2] + c[3],
                      d[0] + d[1] + d[2] + d[3]};
#endif
}

INLINE FourInts sums_of_four(Ints a, Ints b, Ints c, Ints d) {
#if defined(__AVX2__)
#if defined(__AVX512F__)
    auto half = [](Ints v) {
        return _mm256_add_epi32(_mm512_castsi512_si256((__m512i)v), _mm512_extracti64x4_epi64((__m512i)v, 1));
    };
#else
    auto half = [](Ints v) { return (__m256i)v; };
#endif
    __m256i pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(half(a), half(b)), _mm256_hadd_epi32(half(c), half(d)));
    return (FourInts)_mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
#else
    return FourInts{a[0] + a[1] + a[2] + a[3], b[0] + b[1] + b[2] + b[3], c[0] + c[1] + c[2] + c[3],
                    d[0] + d[1] + d[2] + d[3]};
#endif
}

INLINE float sum(Floats value) { return sums_of_four(value, Floats{}, Floats{}, Floats{})[0]; }
INLINE int32_t sum(Ints value) { return sums_of_four(value, Ints{}, Ints{}, Ints{})[0]; }

INLINE float largest(Floats value) {
#pragma GCC unroll 4
    for (int half = WIDTH / 2; half > 0; half /= 2) {
        Ints other;
        for (int lane = 0; lane < WIDTH; lane++) other[lane] = lane ^ half;
        value = maximum(value, __builtin_shuffle(value, other));
    }
    return value[0];
}

// e^x to a unit in the last place or two: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (coefficients of Cephes'
// expf).
INLINE Floats exponential(Floats x) {
    x = minimum(maximum(x, splat(-87.3f)), splat(88.3f));
    Ints n = to_nearest(x * 1.44269504f);
    Floats whole = to_floats(n);
    Floats r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Floats p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.f) * (Floats)((n + 127) << 23);
}

INLINE Floats logistic(Floats x) { return 1.f / (1.f + exponential(-x)); }

// The error function, within 1.5e-7 (Abramowitz and Stegun, 7.1.26).
INLINE Floats error_function(Floats x) {
    Floats size = magnitude(x);
    Floats t = 1.f / (1.f + 0.3275911f * size);
    Floats p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    Floats positive = 1.f - p * t * exponential(-size * size);
    return x < 0.f ? -positive : positive;
}

INLINE Floats activate(Floats x, int32_t activation) {
    switch (activation) {
        case QUINTET_RELU: return maximum(x, Floats{});
        // 0.5 (1 + tanh z) is the logistic function of 2 z.
        case QUINTET_GELU_TANH: return x * logistic(1.5957691216f * (x + 0.044715f * x * x * x));
        case QUINTET_GELU: return 0.5f * x * (1.f + error_function(x * 0.70710678f));
        default: return x * logistic(x);
    }
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
INLINE float absolute(float value) { return value < 0 ? -value : value; }

}  // namespace quintet::QUINTET_ISA

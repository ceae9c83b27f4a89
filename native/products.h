// Products of weights, which stay in memory as they are (outputs, inputs), with the numbers of some tokens.
//
// Two kernels. For few tokens, each weight vector meets each token's vector, lanes along the inputs, and is summed up in the
// end. For many, 16 tokens stand side by side in the lanes (a panel), and each weight is broadcast to them all: no
// sums across lanes, no packing of weights. A panel's row is 64 bytes: 16 floats, or 16 pairs of bfloat16, or 16 times four int8.
#pragma once

#include "vectors.h"

namespace quintet::QUINTET_ISA {

// Numbers of tokens, rounded and laid out as the weights they will meet ask for.
struct Packed {
    uint8_t *data;
    int64_t stride;   // bytes from panel (or token) to panel
    float *scale;     // of int8: one a token
    int32_t *total;   // of int8: the sum of a token's integers
    int32_t type;     // of the weights
    int64_t panels;
};

constexpr int element_size(int32_t type) { return type == QUINTET_FLOAT32 ? 4 : type == QUINTET_BFLOAT16 ? 2 : 1; }

INLINE int64_t row_bytes(const quintet_matrix &w) {
    return w.type == QUINTET_INT4 ? w.inputs / 2 : w.inputs * element_size(w.type);
}

// What the kernels do with four bytes of weights and of tokens' numbers in every lane, and with the sums in the end.
struct FloatMath {
    typedef Floats Sum;
    INLINE Words prepare(Words weights) { return weights; }
    INLINE Sum add(Sum sum, Words w, Words x) { return sum + (Floats)w * (Floats)x; }
    INLINE Floats finish(Sum sum, const float *, int64_t, const Packed &, int64_t) { return sum; }
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
    INLINE Floats finish(Sum sum, const float *, int64_t, const Packed &, int64_t) { return sum; }
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
    INLINE Words prepare(Words weights) { return weights ^ 0x80808080u; }
    INLINE Sum add(Sum sum, Words w, Words x) { return add_bytes(sum, w, x); }
#endif
    INLINE Floats finish(Sum sum, const float *scale, int64_t row, const Packed &x, int64_t token) {
        Ints exact = sum - OFFSET * (Ints)load_as<Words>(x.total + token);
        return to_floats(exact) * (scale[row] * load(x.scale + token));
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

// Weights are read in bands of some rows, each row a stream of its own and too short for the processor to foresee the
// next band. So each step asks for the same place of a later band, at least this many bytes ahead.
constexpr int64_t AHEAD = 4096;

INLINE int64_t bytes_ahead(int64_t band) { return rounded_up(AHEAD, band); }

INLINE void prefetch(const uint8_t *from) { __builtin_prefetch(from, 0, 2); }

// Where results go: number n of a token to out[panel * stride + n * L + lane], in place of what is there or onto it.
struct Target {
    float *out;
    int64_t stride;
    bool adds;
};

INLINE void put(float *at, Floats result, bool adds) { store(at, adds ? load(at) + result : result); }

// -- many tokens: ROWS outputs for the 16 tokens of each of PANELS panels ----------------------------------------------

template <class Math, int ROWS, int PANELS>
INLINE void panel_tile(const quintet_matrix &w, int64_t row, const Packed &x, int64_t panel, float *out,
                       const Target &to) {
    typename Math::Sum sums[ROWS][PANELS][PARTS] = {};
    const int64_t bytes = row_bytes(w);
    const uint8_t *weights = (const uint8_t *)w.data + row * bytes;
    const uint8_t *tokens = x.data + panel * x.stride;
    auto step = [&](int64_t at, auto size) {
        Words numbers[PANELS][PARTS];
#pragma GCC unroll 8
        for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++)
                numbers[p][part] = load_as<Words>(tokens + p * x.stride + at * 16 + part * BYTES);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
            Words weight = Math::prepare(broadcast(weights + r * bytes + at, size));
#pragma GCC unroll 8
            for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 4
                for (int part = 0; part < PARTS; part++)
                    sums[r][p][part] = Math::add(sums[r][p][part], weight, numbers[p][part]);
        }
    };
    int64_t at = 0;
    struct Four { constexpr operator int64_t() const { return 4; } };
    for (; at + 4 <= bytes; at += 4) step(at, Four{});
    if (at < bytes) step(at, bytes - at);  // the panel's rows are filled up with zeros
#pragma GCC unroll 8
    for (int p = 0; p < PANELS; p++)
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int part = 0; part < PARTS; part++) {
                int64_t token = (panel + p) * LANES + part * WIDTH;
                put(out + p * to.stride + r * LANES + part * WIDTH,
                    Math::finish(sums[r][p][part], w.scale, row + r, x, token), to.adds);
            }
}

template <class Math, int ROWS, int PANELS>
INLINE void panel_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel, float *out,
                       const Target &to) {
    int64_t row = first;
    for (; row + ROWS <= end; row += ROWS)
        panel_tile<Math, ROWS, PANELS>(w, row, x, panel, out + (row - first) * LANES, to);
    for (; row < end; row++) panel_tile<Math, 1, PANELS>(w, row, x, panel, out + (row - first) * LANES, to);
}

// -- few tokens: ROWS outputs for each of TOKENS tokens, lanes along the inputs ----------------------------------------

template <class Math, int ROWS, int TOKENS>
INLINE void token_tile(const quintet_matrix &w, int64_t row, const Packed &x, int64_t token, float *out,
                       const Target &to) {
    typename Math::Sum sums[ROWS][TOKENS] = {};
    const int64_t bytes = row_bytes(w);
    const uint8_t *weights = (const uint8_t *)w.data + row * bytes;
    const uint8_t *tokens = x.data + token * x.stride;
    const int64_t ahead = bytes_ahead(ROWS * bytes);
    auto step = [&](int64_t at, auto size) {
        Words numbers[TOKENS];
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) numbers[t] = load_as<Words>(tokens + t * x.stride + at);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            prefetch(weights + r * bytes + at + ahead);
            Words weight = Math::prepare(load_part(weights + r * bytes + at, size));
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) sums[r][t] = Math::add(sums[r][t], weight, numbers[t]);
        }
    };
    int64_t at = 0;
    struct All { constexpr operator int64_t() const { return BYTES; } };
    for (; at + BYTES <= bytes; at += BYTES) step(at, All{});
    if (at < bytes) step(at, bytes - at);
    FourFloats scale{};
    if (w.scale != nullptr) __builtin_memcpy(&scale, w.scale + row, 4 * ROWS);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
        FourFloats result, before{};
        if constexpr (ROWS == 4) {
            result = Math::finish(sums_of_four(sums[0][t], sums[1][t], sums[2][t], sums[3][t]), scale, x, token + t);
        } else {
            typename Math::Sum none{};
            result = Math::finish(sums_of_four(sums[0][t], none, none, none), scale, x, token + t);
        }
        float *at = out + t * to.stride;
        if (to.adds) __builtin_memcpy(&before, at, 4 * ROWS);
        result = result + before;
        __builtin_memcpy(at, &result, 4 * ROWS);
    }
}

template <class Math, int ROWS, int TOKENS>
INLINE void token_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t token, float *out,
                       const Target &to) {
    int64_t row = first;
    for (; row + ROWS <= end; row += ROWS)
        token_tile<Math, ROWS, TOKENS>(w, row, x, token, out + (row - first), to);
    for (; row < end; row++) token_tile<Math, 1, TOKENS>(w, row, x, token, out + (row - first), to);
}

#if defined(__AMX_TILE__)
// -- many tokens, on the tiles of AMX: 16 outputs by 16 tokens -----------------------------------------------------------
//
// A tile holds 16 rows of 64 bytes: of 16 weight rows; of a panel, as it lies in memory; of 16 outputs' sums.

struct __attribute__((packed)) TileShapes {
    uint8_t palette = 1, start = 0, unused[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

// A thread's tiles, from construction to destruction.
struct Tiles {
    Tiles() {
        TileShapes shapes;
        _tile_loadconfig(&shapes);
    }
    ~Tiles() { _tile_release(); }
};

// sums += weights x tokens, in tiles whose numbers must be written out.
#define QUINTET_MULTIPLY_TILES(sums, weights, tokens)              \
    do {                                                           \
        if constexpr (IS_BYTES) _tile_dpbssd(sums, weights, tokens); \
        else _tile_dpbf16ps(sums, weights, tokens);                \
    } while (0)

// What 64 bytes of each of `rows` rows hold, or less; the rest is zero.
INLINE void copy_rows(uint8_t *to, const uint8_t *from, int64_t stride, int64_t rows, int64_t bytes) {
    __builtin_memset(to, 0, 1024);
    for (int64_t row = 0; row < rows; row++) __builtin_memcpy(to + row * 64, from + row * stride, bytes);
}

template <bool IS_BYTES>
INLINE void put_tile(const float *tile, int64_t rows, const quintet_matrix &w, int64_t row, const Packed &x, int64_t panel,
                     float *out, bool adds) {
    for (int64_t r = 0; r < rows; r++) {
        if constexpr (IS_BYTES)
            put(out + r * LANES, to_floats(load_as<Ints>(tile + r * LANES)) * (w.scale[row + r] * load(x.scale + panel * LANES)), adds);
        else put(out + r * LANES, load(tile + r * LANES), adds);
    }
}

// 32 outputs of two panels, or 16 (TALL false), or of one panel (WIDE false); `rows` says how many outputs there are.
template <bool IS_BYTES, bool TALL, bool WIDE>
INLINE void multiply_tiles(const quintet_matrix &w, int64_t row, int64_t rows, const Packed &x, int64_t panel, float *out,
                           const Target &to, bool is_first) {
    const int64_t bytes = row_bytes(w), whole = bytes / 64 * 64;
    const uint8_t *upper = (const uint8_t *)w.data + row * bytes, *lower = upper + 16 * bytes;
    const uint8_t *left = x.data + panel * x.stride, *right = left + x.stride;
    alignas(64) uint8_t room[1024];
    _tile_zero(0);
    if (WIDE) _tile_zero(1);
    if (TALL) _tile_zero(2);
    if (TALL && WIDE) _tile_zero(3);
    auto step = [&](int64_t at, int64_t count) {
        auto load_weights = [&](const uint8_t *from, int64_t have, auto load) {
            if (count == 64 && have >= 16) return load(from + at, bytes);
            copy_rows(room, from + at, bytes, least(have, 16), count);
            load(room, (int64_t)64);
        };
        auto load_tokens = [&](const uint8_t *from, auto load) {
            if (count == 64) return load(from + at * 16, (int64_t)64);
            copy_rows(room, from + at * 16, 64, (count + 3) / 4, 64);
            load(room, (int64_t)64);
        };
        load_weights(upper, rows, [](const uint8_t *from, int64_t stride) { _tile_loadd(4, from, stride); });
        load_tokens(left, [](const uint8_t *from, int64_t stride) { _tile_loadd(6, from, stride); });
        QUINTET_MULTIPLY_TILES(0, 4, 6);
        if constexpr (WIDE) {
            load_tokens(right, [](const uint8_t *from, int64_t stride) { _tile_loadd(7, from, stride); });
            QUINTET_MULTIPLY_TILES(1, 4, 7);
        }
        if constexpr (TALL) {
            load_weights(lower, rows - 16, [](const uint8_t *from, int64_t stride) { _tile_loadd(5, from, stride); });
            QUINTET_MULTIPLY_TILES(2, 5, 6);
        }
        if constexpr (TALL && WIDE) QUINTET_MULTIPLY_TILES(3, 5, 7);
        if (is_first)
            for (int r = 0; r < 32; r++) prefetch(upper + (32 + r) * bytes + at);
    };
    for (int64_t at = 0; at < whole; at += 64) step(at, 64);
    if (whole < bytes) step(whole, bytes - whole);
    alignas(64) float sums[256];
    _tile_stored(0, sums, 64);
    put_tile<IS_BYTES>(sums, least(rows, 16), w, row, x, panel, out, to.adds);
    if (WIDE) {
        _tile_stored(1, sums, 64);
        put_tile<IS_BYTES>(sums, least(rows, 16), w, row, x, panel + 1, out + to.stride, to.adds);
    }
    if (TALL) {
        _tile_stored(2, sums, 64);
        put_tile<IS_BYTES>(sums, rows - 16, w, row + 16, x, panel, out + 16 * LANES, to.adds);
    }
    if (TALL && WIDE) {
        _tile_stored(3, sums, 64);
        put_tile<IS_BYTES>(sums, rows - 16, w, row + 16, x, panel + 1, out + 16 * LANES + to.stride, to.adds);
    }
}

template <bool IS_BYTES>
static void multiply_on_tiles(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                              int64_t panels, const Target &to) {
    for (int64_t row = first; row < end; row += 32) {
        int64_t rows = least(32, end - row);
        for (int64_t p = panel; p < panel + panels; p += 2) {
            float *out = to.out + p * to.stride + (row - first) * LANES;
            bool wide = p + 1 < panel + panels, tall = rows > 16;
            if (wide && tall) multiply_tiles<IS_BYTES, true, true>(w, row, rows, x, p, out, to, p == panel);
            else if (wide) multiply_tiles<IS_BYTES, false, true>(w, row, rows, x, p, out, to, p == panel);
            else if (tall) multiply_tiles<IS_BYTES, true, false>(w, row, rows, x, p, out, to, p == panel);
            else multiply_tiles<IS_BYTES, false, false>(w, row, rows, x, p, out, to, p == panel);
        }
    }
}
#else
struct Tiles {
    Tiles() {}  // nothing: only AMX has them
};
#endif

// -- any matrix ------------------------------------------------------------------------------------------------------

// Sums that fit into the registers: 32 with AVX-512, else 16.
#if defined(__AVX512F__)
constexpr int PANELS_AT_ONCE = 3, TOKENS_AT_ONCE = 6, ROWS_OF_PANEL[] = {0, 16, 8, 8}, ROWS_OF_TOKEN = 4;
#elif defined(__AVX2__)
constexpr int PANELS_AT_ONCE = 1, TOKENS_AT_ONCE = 3, ROWS_OF_PANEL[] = {0, 6}, ROWS_OF_TOKEN = 4;
#else
constexpr int PANELS_AT_ONCE = 1, TOKENS_AT_ONCE = 2, ROWS_OF_PANEL[] = {0, 2}, ROWS_OF_TOKEN = 4;
#endif

template <class Math, int L, int COUNT>
INLINE void some_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel, float *out,
                      const Target &to) {
    if constexpr (L == 1) token_rows<Math, ROWS_OF_TOKEN, COUNT>(w, first, end, x, panel, out, to);
    else panel_rows<Math, ROWS_OF_PANEL[COUNT], COUNT>(w, first, end, x, panel, out, to);
}

template <class Math, int L, int COUNT>
static inline void rows_by_count(int64_t count, const quintet_matrix &w, int64_t first, int64_t end, const Packed &x,
                                 int64_t panel, float *out, const Target &to) {
    if (count == COUNT) return some_rows<Math, L, COUNT>(w, first, end, x, panel, out, to);
    if constexpr (COUNT > 1) rows_by_count<Math, L, COUNT - 1>(count, w, first, end, x, panel, out, to);
}

// Few weight rows at a time meet all the tokens, so that these rows are read from memory once.
template <class Math, int L>
static void all_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel, int64_t panels,
                     const Target &to) {
    constexpr int AT_ONCE = L == 1 ? TOKENS_AT_ONCE : PANELS_AT_ONCE;
    constexpr int BAND = L == 1 ? ROWS_OF_TOKEN : 48;
    for (int64_t row = first; row < end; row += BAND) {
        int64_t stop = least(row + BAND, end);
        for (int64_t p = 0; p < panels;) {
            int64_t left = panels - p, groups = (left + AT_ONCE - 1) / AT_ONCE, count = (left + groups - 1) / groups;
            float *out = to.out + (panel + p) * to.stride + (row - first) * L;
            rows_by_count<Math, L, AT_ONCE>(count, w, row, stop, x, panel + p, out, to);
            p += count;
        }
    }
}

// Outputs first to end of some panels (L = 16) or tokens (L = 1). `to.out` is where the output `first` of panel 0 goes.
template <int L>
INLINE void multiply(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                     int64_t panels, const Target &to) {
#if defined(__AMX_TILE__)
    if (L == LANES && w.type == QUINTET_BFLOAT16) return multiply_on_tiles<false>(w, first, end, x, panel, panels, to);
    if (L == LANES && w.type == QUINTET_INT8) return multiply_on_tiles<true>(w, first, end, x, panel, panels, to);
#endif
    switch (w.type) {
        case QUINTET_FLOAT32: return all_rows<FloatMath, L>(w, first, end, x, panel, panels, to);
        case QUINTET_BFLOAT16: return all_rows<BrainMath, L>(w, first, end, x, panel, panels, to);
        default: return all_rows<ByteMath, L>(w, first, end, x, panel, panels, to);
    }
}

}  // namespace quintet::QUINTET_ISA

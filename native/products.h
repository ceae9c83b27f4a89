// Products of weights, which stay in memory as they are (outputs, inputs), with the numbers of some tokens.
//
// Few tokens (tokens.h) and many (panels.h, tiles.h) have kernels of their own; none needs weights in another order. A
// panel's row is 64 bytes: 16 floats, or 16 pairs of bfloat16, or 16 times four int8.
#pragma once

#include "int4_panels.h"
#include "panels.h"
#include "tokens.h"

namespace quintet::QUINTET_ISA {

struct Int4Math;  // for few tokens, with a kernel of its own

// How many outputs and tokens, or panels, a kernel takes at once: as many as the registers hold sums of.
template <class Math, int L>
struct Shape {
#if defined(__AVX512F__)
    static constexpr int COUNT = L == 1 ? 6 : 3;
    static constexpr int rows(int count) { return L == 1 ? 4 : count == 1 ? 16 : 8; }
#elif defined(__AVX2__)
    static constexpr int COUNT = L == 1 ? 3 : 1;
    static constexpr int rows(int) { return L == 1 ? 4 : 6; }
#else
    static constexpr int COUNT = L == 1 ? 2 : 1;
    static constexpr int rows(int) { return L == 1 ? 4 : 2; }
#endif
};

template <>
struct Shape<Int4Math, 1> {
#if defined(__AVX512F__)
    static constexpr int COUNT = 4;
#else
    static constexpr int COUNT = 1;
#endif
    static constexpr int rows(int) { return 4; }
};

// Calls work(first, count) for all of `count` tokens or panels, at most AT_ONCE of them at a time and about as many each
// time.
template <int AT_ONCE, class Work>
INLINE void in_groups(int64_t count, const Work &work) {
    for (int64_t first = 0; first < count;) {
        int64_t left = count - first, groups = (left + AT_ONCE - 1) / AT_ONCE, size = (left + groups - 1) / groups;
        work(first, size);
        first += size;
    }
}

// -- few tokens -----------------------------------------------------------------------------------------------------

// ROWS rows of weights for `count` tokens.
template <class Math, int ROWS, int COUNT>
static void token_rows(int64_t count, const quintet_matrix &w, const Rows &rows, const Packed &x, int64_t token,
                       float *out, const Target &to) {
    if constexpr (COUNT > 1)
        if (count < COUNT) return token_rows<Math, ROWS, COUNT - 1>(count, w, rows, x, token, out, to);
    if constexpr (!__is_same(Math, Int4Math)) token_tile<Math, ROWS, COUNT>(w, rows, x, token, out, to);
    else if (w.scale_type == QUINTET_FLOAT32) token_tile_int4<float, ROWS, COUNT>(w, rows, x, token, out, to);
    else token_tile_int4<Brain, ROWS, COUNT>(w, rows, x, token, out, to);
}

// Four rows at a time meet all the tokens. They are far apart, and the next four are the next of each: four streams of
// weights, each long enough for the processor to foresee how it goes on.
template <class Math>
static void all_rows_of_tokens(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t token,
                               int64_t tokens, const Target &to) {
    constexpr int AT_ONCE = Shape<Math, 1>::COUNT;
    const int64_t apart = (end - first) / 4, ahead = bytes_ahead_of_tokens(tokens);
    float *out = to.out + token * to.stride;
    for (int64_t row = first; row < first + apart; row++)
        in_groups<AT_ONCE>(tokens, [&](int64_t t, int64_t count) {
            const Rows rows{row, apart, ahead};
            token_rows<Math, 4, AT_ONCE>(count, w, rows, x, token + t, out + t * to.stride + row - first, to);
        });
    for (int64_t row = first + 4 * apart; row < end; row++)
        in_groups<AT_ONCE>(tokens, [&](int64_t t, int64_t count) {
            const Rows rows{row, 0, ahead};
            token_rows<Math, 1, AT_ONCE>(count, w, rows, x, token + t, out + t * to.stride + row - first, to);
        });
}

// -- many tokens ----------------------------------------------------------------------------------------------------

template <class Math, int COUNT>
static void panel_rows(int64_t count, const quintet_matrix &w, int64_t first, int64_t end, const Packed &x,
                       int64_t panel, float *out, const Target &to) {
    if constexpr (COUNT > 1)
        if (count < COUNT) return panel_rows<Math, COUNT - 1>(count, w, first, end, x, panel, out, to);
    constexpr int ROWS = Shape<Math, LANES>::rows(COUNT);
    int64_t row = first;
    for (; row + ROWS <= end; row += ROWS)
        panel_tile<Math, ROWS, COUNT>(w, row, x, panel, out + (row - first) * LANES, to);
    for (; row < end; row++) panel_tile<Math, 1, COUNT>(w, row, x, panel, out + (row - first) * LANES, to);
}

// Few weight rows at a time meet all the panels, so that these rows are read from memory once.
template <class Math>
static void all_rows_of_panels(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                               int64_t panels, const Target &to) {
    constexpr int AT_ONCE = Shape<Math, LANES>::COUNT;
    constexpr int BAND = 48;
    for (int64_t row = first; row < end; row += BAND) {
        int64_t stop = least(row + BAND, end);
        in_groups<AT_ONCE>(panels, [&](int64_t p, int64_t count) {
            float *out = to.out + (panel + p) * to.stride + (row - first) * LANES;
            panel_rows<Math, AT_ONCE>(count, w, row, stop, x, panel + p, out, to);
        });
    }
}

template <class Math, int L>
static void all_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                     int64_t panels, const Target &to) {
    if constexpr (L == 1) all_rows_of_tokens<Math>(w, first, end, x, panel, panels, to);
    else all_rows_of_panels<Math>(w, first, end, x, panel, panels, to);
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
        case QUINTET_INT8: return all_rows<ByteMath, L>(w, first, end, x, panel, panels, to);
        default:
            if constexpr (L == 1) return all_rows<Int4Math, 1>(w, first, end, x, panel, panels, to);
            else return multiply_int4(w, first, end, x, panel, panels, to);
    }
}

}  // namespace quintet::QUINTET_ISA

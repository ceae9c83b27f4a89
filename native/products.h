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
    static constexpr int COUNT = 3;
#else
    static constexpr int COUNT = 1;
#endif
    static constexpr int rows(int) { return 4; }
};

template <class Math, int L, int ROWS, int COUNT>
INLINE void kernel(const quintet_matrix &w, int64_t row, const Packed &x, int64_t panel, float *out, const Target &to) {
    if constexpr (__is_same(Math, Int4Math)) token_tile_int4<ROWS, COUNT>(w, row, x, panel, out, to);
    else if constexpr (L == 1) token_tile<Math, ROWS, COUNT>(w, row, x, panel, out, to);
    else panel_tile<Math, ROWS, COUNT>(w, row, x, panel, out, to);
}

template <class Math, int L, int COUNT>
static void rows_by_count(int64_t count, const quintet_matrix &w, int64_t first, int64_t end, const Packed &x,
                          int64_t panel, float *out, const Target &to) {
    if constexpr (COUNT > 1)
        if (count < COUNT) return rows_by_count<Math, L, COUNT - 1>(count, w, first, end, x, panel, out, to);
    constexpr int ROWS = Shape<Math, L>::rows(COUNT);
    int64_t row = first;
    for (; row + ROWS <= end; row += ROWS) kernel<Math, L, ROWS, COUNT>(w, row, x, panel, out + (row - first) * L, to);
    for (; row < end; row++) kernel<Math, L, 1, COUNT>(w, row, x, panel, out + (row - first) * L, to);
}

// Few weight rows at a time meet all the tokens, so that these rows are read from memory once.
template <class Math, int L>
static void all_rows(const quintet_matrix &w, int64_t first, int64_t end, const Packed &x, int64_t panel,
                     int64_t panels, const Target &to) {
    constexpr int AT_ONCE = Shape<Math, L>::COUNT;
    constexpr int BAND = L == 1 ? 4 : 48;
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
        case QUINTET_INT8: return all_rows<ByteMath, L>(w, first, end, x, panel, panels, to);
        default:
            if constexpr (L == 1) return all_rows<Int4Math, 1>(w, first, end, x, panel, panels, to);
            else return multiply_int4(w, first, end, x, panel, panels, to);
    }
}

}  // namespace quintet::QUINTET_ISA

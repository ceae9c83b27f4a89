// Products for many tokens on the tiles of AMX, in int8 and bfloat16: 16 outputs by 16 tokens.
#pragma once

#include "numbers.h"

namespace quintet::QUINTET_ISA {

#if defined(__AMX_TILE__)
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
        asm volatile("ldtilecfg %0" ::"m"(shapes));  // GCC's own function reads but the first of these bytes
    }
    ~Tiles() { _tile_release(); }
};

// sums += weights x tokens, in tiles whose numbers must be written out.
#define QUINTET_MULTIPLY_TILES(sums, weights, tokens)                \
    do {                                                             \
        if constexpr (IS_BYTES) _tile_dpbssd(sums, weights, tokens); \
        else _tile_dpbf16ps(sums, weights, tokens);                  \
    } while (0)

// GCC does not know that loading a tile reads memory: it may leave out what was written for it, or write it too late,
// or overwrite it too early.
INLINE void keep_memory_in_order() { asm volatile("" ::: "memory"); }

// What 64 bytes of each of `rows` rows hold, or less; the rest is zero.
INLINE void copy_rows(uint8_t *to, const uint8_t *from, int64_t stride, int64_t rows, int64_t bytes) {
    keep_memory_in_order();
    __builtin_memset(to, 0, 1024);
    for (int64_t row = 0; row < rows; row++) __builtin_memcpy(to + row * 64, from + row * stride, bytes);
    keep_memory_in_order();
}

template <bool IS_BYTES>
INLINE void put_tile(const float *tile, int64_t rows, const quintet_matrix &w, int64_t row, const Packed &x,
                     int64_t panel, float *out, bool adds) {
    for (int64_t r = 0; r < rows; r++) {
        if constexpr (IS_BYTES) {
            Floats scale = scale_at(w, row + r) * load(x.scale + panel * LANES);
            put(out + r * LANES, to_floats(load_as<Ints>(tile + r * LANES)) * scale, adds);
        } else put(out + r * LANES, load(tile + r * LANES), adds);
    }
}

// 32 outputs of two panels, or 16 (TALL false), or of one panel (WIDE false); `rows` says how many outputs there are.
template <bool IS_BYTES, bool TALL, bool WIDE>
INLINE void multiply_tiles(const quintet_matrix &w, int64_t row, int64_t rows, const Packed &x, int64_t panel,
                           float *out, const Target &to, bool is_first) {
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

}  // namespace quintet::QUINTET_ISA

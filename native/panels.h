// Products for many tokens: 16 side by side in a vector's lanes, each weight broadcast to them all.
#pragma once

#include "numbers.h"

namespace quintet::QUINTET_ISA {

// ROWS outputs for the 16 tokens of each of PANELS panels.
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
    struct Four {
        constexpr operator int64_t() const { return 4; }
    };
    const int64_t ahead = bytes_ahead(ROWS * bytes);
    for (; at + 64 <= bytes; at += 64) {
        for (int r = 0; r < ROWS; r++) prefetch(weights + r * bytes + at + ahead);
        for (int word = 0; word < 64; word += 4) step(at + word, Four{});
    }
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
                    Math::finish(sums[r][p][part], w, row + r, x, token), to.adds);
            }
}

}  // namespace quintet::QUINTET_ISA

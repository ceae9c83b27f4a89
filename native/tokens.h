// Products for few tokens: a weight vector meets each token's vector, lanes along the inputs, summed up in the end.
#pragma once

#include "numbers.h"

namespace quintet::QUINTET_ISA {

// ROWS outputs, 4 or 1, for each of TOKENS tokens.
template <class Math, int ROWS, int TOKENS>
INLINE void token_tile(const quintet_matrix &w, const Rows &rows, const Packed &x, int64_t token, float *out,
                       const Target &to) {
    typename Math::Sum sums[ROWS][TOKENS] = {};
    const int64_t bytes = row_bytes(w), distance = rows.apart * bytes;
    const uint8_t *weights = (const uint8_t *)w.data + rows.first * bytes;
    const uint8_t *tokens = x.data + token * x.stride;
    auto step = [&](int64_t at, auto size) {
        Words numbers[TOKENS];
#pragma GCC unroll 8
        for (int t = 0; t < TOKENS; t++) numbers[t] = load_as<Words>(tokens + t * x.stride + at);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            prefetch(weights + r * distance + at + rows.ahead);
            Words weight = Math::prepare(load_part(weights + r * distance + at, size));
#pragma GCC unroll 8
            for (int t = 0; t < TOKENS; t++) sums[r][t] = Math::add(sums[r][t], weight, numbers[t]);
        }
    };
    int64_t at = 0;
    struct All {
        constexpr operator int64_t() const { return BYTES; }
    };
    for (; at + BYTES <= bytes; at += BYTES) step(at, All{});
    if (at < bytes) step(at, bytes - at);
    FourFloats scale{};
    if (w.scale != nullptr)
        for (int r = 0; r < ROWS; r++) scale[r] = scale_at(w, rows.first + r * rows.apart);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
        FourFloats result;
        if constexpr (ROWS == 4) {
            result = Math::finish(sums_of_four(sums[0][t], sums[1][t], sums[2][t], sums[3][t]), scale, x, token + t);
        } else {
            typename Math::Sum none{};
            result = Math::finish(sums_of_four(sums[0][t], none, none, none), scale, x, token + t);
        }
        float *at = out + t * to.stride;
        for (int r = 0; r < ROWS; r++) at[r * rows.apart] = to.adds ? at[r * rows.apart] + result[r] : result[r];
    }
}

}  // namespace quintet::QUINTET_ISA

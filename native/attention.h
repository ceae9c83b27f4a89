// What the encoder's and the decoder's attention share.
#pragma once

#include "network.h"
#include "vectors.h"

namespace quintet::QUINTET_ISA {

constexpr float INVISIBLE = -3e38f;  // the score of a key that is not looked at

// The bias of a head by distance, as far as it reaches.
struct HeadBias {
    const float *middle;
    int64_t reach;

    HeadBias(const quintet_attention &attention, int64_t head)
        : middle(attention.bias == nullptr ? nullptr
                                           : attention.bias + head * (2 * attention.reach + 1) + attention.reach),
          reach(attention.reach) {}

    float at(int64_t distance) const { return middle == nullptr ? 0.f : middle[most(-reach, least(reach, distance))]; }

    // To the scores of a query at `position` with the keys up to there.
    void add(float *scores, int64_t position) const {
        if (middle == nullptr) return;
        int64_t far = most(0, position - reach);
        for (int64_t at = 0; at < far; at++) scores[at] += middle[-reach];
        for (int64_t at = far; at <= position; at++) scores[at] += middle[at - position];
    }
};

}  // namespace quintet::QUINTET_ISA

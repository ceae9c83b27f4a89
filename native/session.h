// What a decoder remembers: keys and values of sources and of the targets that grow.
#pragma once

#include <cstdint>

#include "quintet.h"

namespace quintet {

// Keys and values of up to SPAN positions of all rows: (layers, heads, rows, SPAN, key and value, width).
struct Chunk {
    static constexpr int64_t SPAN = 64;
    int64_t start, count, rows;
    uint8_t *data;
    int32_t *place;  // (SPAN, rows): which of a position's rows is the target's own, after beams changed places
    int64_t places;  // how many rows that table has
};

struct Targets {
    Chunk *chunk;
    int64_t chunks;
    int64_t heads, width;  // width: d_kv rounded up to 16, filled up with zeros
    int64_t size;          // bytes of a number

    __attribute__((always_inline)) uint8_t *slot(const Chunk &chunk, int64_t layer, int64_t head, int64_t place,
                                                 int64_t position) const {
        int64_t index = ((layer * heads + head) * chunk.rows + place) * Chunk::SPAN + position - chunk.start;
        return chunk.data + index * 2 * width * size;
    }

    // The key, with the value behind it, of a row's token.
    __attribute__((always_inline)) const uint8_t *key(const Chunk &chunk, int64_t layer, int64_t head, int64_t row,
                                                      int64_t position) const {
        return slot(chunk, layer, head, chunk.place[(position - chunk.start) * chunk.places + row], position);
    }
};

// Keys and values of sources in all layers: (layers, heads, panels, key and value, d_kv, 16). A source begins a panel.
struct Sources {
    uint8_t *data;
    int64_t panels, heads, d_kv;
    int64_t size;                // bytes of a number
    const int64_t *first_panel;  // of each source
    const int64_t *length;

    // A head's keys in a panel, with its values behind them.
    __attribute__((always_inline)) uint8_t *at(int64_t layer, int64_t head, int64_t panel) const {
        return data + ((layer * heads + head) * panels + panel) * 2 * d_kv * 16 * size;
    }
};

}  // namespace quintet

// What a decoder remembers: keys and values of sources and of the targets that grow.
#pragma once

#include <cstdint>

#include "quintet.h"

namespace quintet {

// This header is compiled for each instruction set, outside their namespaces: its functions must be inlined, or the
// linker could keep one for a processor that is not there.

// How keys and values are kept. In 8 bits they are integers, and have a scale for each token of a head.
struct CacheType {
    int64_t size, scale_size;  // bytes of a number; of a scale, or 0

    // Bytes of keys and values of some tokens of a head, with the scales of both behind them.
    __attribute__((always_inline)) int64_t bytes(int64_t tokens, int64_t numbers) const {
        return 2 * tokens * (numbers * size + scale_size);
    }
};

// Keys and values of up to SPAN positions of all rows: (layers, heads, rows, SPAN, key and value, width); in 8 bits
// each row's are followed by (SPAN, scale of key and value).
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
    int64_t heads, width;  // width: d_kv filled up with zeros to two vectors of the widest instruction set
    CacheType kept;

    // What a row's place has of a head.
    __attribute__((always_inline)) uint8_t *run(const Chunk &chunk, int64_t layer, int64_t head, int64_t place) const {
        return chunk.data + ((layer * heads + head) * chunk.rows + place) * kept.bytes(Chunk::SPAN, width);
    }

    // A key, with the value behind it.
    __attribute__((always_inline)) uint8_t *slot(const Chunk &chunk, int64_t layer, int64_t head, int64_t place,
                                                 int64_t position) const {
        return run(chunk, layer, head, place) + (position - chunk.start) * 2 * width * kept.size;
    }

    // The scale of an 8-bit key, with that of the value behind it.
    __attribute__((always_inline)) float *scales(const Chunk &chunk, int64_t layer, int64_t head, int64_t place,
                                                 int64_t position) const {
        uint8_t *all = run(chunk, layer, head, place) + Chunk::SPAN * 2 * width * kept.size;
        return (float *)all + 2 * (position - chunk.start);
    }

    // Where the token of a row is kept.
    __attribute__((always_inline)) int64_t place_of(const Chunk &chunk, int64_t row, int64_t position) const {
        return chunk.place[(position - chunk.start) * chunk.places + row];
    }
};

// Keys and values of sources in all layers: (layers, heads, panels, key and value, width, 16), of bfloat16 (..., width
// / 2, 16, 2). A source begins a panel. In 8 bits each panel's are followed by the scales (key and value, 16).
struct Sources {
    uint8_t *data;
    int64_t panels, heads, width;  // width: d_kv rounded up to 2
    CacheType kept;
    const int64_t *first_panel;  // of each source
    const int64_t *length;

    __attribute__((always_inline)) int64_t panel_bytes() const { return kept.bytes(16, width); }

    // A head's keys in a panel, with its values behind them.
    __attribute__((always_inline)) uint8_t *at(int64_t layer, int64_t head, int64_t panel) const {
        return data + ((layer * heads + head) * panels + panel) * panel_bytes();
    }
};

}  // namespace quintet

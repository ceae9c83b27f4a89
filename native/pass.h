// One pass of some tokens through the layers of a stack. All threads run the same function and meet after each phase.
#pragma once

#include "network.h"
#include "rounding.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t ROWS_AT_ONCE = 384;        // of weights, in an item of a product, at most
constexpr int64_t BYTES_AT_ONCE = 1 << 20;  // of tokens' numbers, so that they stay in the second-level cache

// One pass of `panels` blocks of L tokens through the layers of a stack.
template <int L>
struct Pass {
    const quintet_model &model;
    const Space &space;
    Team &team;
    int64_t member;
    int64_t panels;

    int64_t inner() const { return model.heads * model.d_kv; }
    float *states(int64_t panel) const { return space.states + panel * model.d_model * L; }

    Packed packed(const quintet_matrix &w, int64_t count) const {
        const int32_t type = rounded_type<L>(w.type);
        int64_t bytes = w.inputs * element_size(type);
        Packed x{space.rounded, 0, space.scale, space.total, 1, type, w.inputs, count};
        if (space.single) {
            x.data += member * space.rounded_size;
            x.scale += member * space.scale_size;
            x.total += member * space.total_size;
        }
        if (L > 1) x.stride = rounded_up(bytes, 4) * L;
        else x.stride = rounded_up(bytes, type == QUINTET_INT4 ? 2 * BYTES : 64);
        if (type == QUINTET_INT4) {
            x.span = L == 1 ? 8 : group_size(w);
            x.totals = L == 1 ? x.stride / 8 : w.inputs / x.span;
        }
        return x;
    }

    // What begins `count` panels further on.
    static Packed behind(Packed x, int64_t count) {
        x.data += count * x.stride;
        x.scale += count * L;
        x.total += count * L * x.totals;
        return x;
    }

    // A phase: calls work for each of `count` blocks. A single block every thread takes for itself, into room of its
    // own: that is done as soon as waiting for one of them, and they need not meet.
    template <class Work>
    void each_block(int64_t count, const Work &work) const {
        if (space.single) work(0);
        else share(team, count, work);
    }

    // A phase: normalised states of some panels as the matrix `w` takes them; with `twice`, behind them what rounding
    // to int8 has taken, rounded in turn.
    Packed normalized(const quintet_matrix &norm, const quintet_matrix &w, float factor = 1.f,
                      bool twice = false) const {
        Packed x = packed(w, panels), rest = behind(x, panels);
        float *room = space.normal + member * model.d_model * L;
        each_block(panels, [&](int64_t panel) {
            normalize<L>(states(panel), model.d_model, norm, model.epsilon, factor, room);
            round_block<L>(room, model.d_model, x, panel);
            if (!twice) return;
            keep_remainder<L>(room, model.d_model);
            round_block<L>(room, model.d_model, rest, panel);
        });
        return x;
    }

    // A phase: blocks of the size that `w` takes.
    Packed rounded(const float *blocks, const quintet_matrix &w, int64_t count) const {
        Packed x = packed(w, count);
        each_block(count, [&](int64_t panel) {
            round_block<L>(blocks + panel * w.inputs * L, w.inputs, x, panel);
        });
        return x;
    }

    // How many rows of each of some matrices an item has: equal parts for all threads. Few tokens read long streams, and
    // have few results, so all of the matrices' may be as large.
    int64_t rows_of_item(int64_t rows, int64_t matrices = 1) const {
        const int64_t at_once = team.size * (L == 1 ? ROWS_AT_ONCE : ROWS_AT_ONCE / matrices);
        const int64_t rounds = (rows + at_once - 1) / at_once;
        return rounded_up((rows + rounds * team.size - 1) / (rounds * team.size), 4);
    }

    // A phase: products of the same numbers with matrices of as many rows; result i in blocks at out[i], or added to
    // what is there. Then after(panel, count, first, end) for these rows of `count` blocks, in the processor's cache.
    template <int COUNT, class After>
    void products(const quintet_matrix *const (&w)[COUNT], const Packed &x, float *const (&out)[COUNT], bool adds,
                  const After &after) const {
        int64_t at_once = L == 1 ? x.panels : most(PARTS, BYTES_AT_ONCE / x.stride);
        int64_t rows = w[0]->outputs, of_item = rows_of_item(rows, COUNT), bands = (rows + of_item - 1) / of_item;
        int64_t groups = (x.panels + at_once - 1) / at_once;
        share(team, bands * groups, [&](int64_t item) {
            int64_t first = item % bands * of_item, end = least(first + of_item, rows);
            int64_t panel = item / bands * at_once, count = least(at_once, x.panels - panel);
            for (int i = 0; i < COUNT; i++)
                multiply<L>(*w[i], first, end, x, panel, count, {out[i] + first * L, rows * L, adds});
            after(panel, count, first, end);
        });
    }

    template <int COUNT>
    void products(const quintet_matrix *const (&w)[COUNT], const Packed &x, float *const (&out)[COUNT],
                  bool adds = false) const {
        products(w, x, out, adds, [](int64_t, int64_t, int64_t, int64_t) {});
    }

    void output(const quintet_attention &attention) const {
        products({&attention.output}, rounded(space.wide[0], attention.output, panels), {space.states}, true);
    }

    void feed_forward(const quintet_feed_forward &layer) const {
        Packed all = normalized(layer.norm, layer.up);
        int64_t size = layer.up.outputs;
        for (int64_t first = 0; first < panels; first += PANELS_OF_FEED_FORWARD) {
            int64_t count = least(PANELS_OF_FEED_FORWARD, panels - first);
            Packed x = behind(all, first);
            x.panels = count;
            activated_products(layer, x);
            // Behind the numbers that later panels still need.
            Packed inner = packed(layer.down, count), free = behind(all, panels);
            inner.data = free.data;
            inner.scale = free.scale;
            inner.total = free.total;
            each_block(count,
                       [&](int64_t panel) { round_block<L>(space.wide[0] + panel * size * L, size, inner, panel); });
            products({&layer.down}, inner, {states(first)}, true);
        }
    }

    // A phase: activation(gate x) * up x, or activation(up x), to space.wide[0].
    void activated_products(const quintet_feed_forward &layer, const Packed &x) const {
        bool is_gated = layer.gate.data != nullptr;
        float *gate = space.wide[0], *up = space.wide[1];
        auto activate = [&](int64_t panel, int64_t count, int64_t first, int64_t end) {
            for (int64_t p = panel; p < panel + count; p++) {
                int64_t at = (p * layer.up.outputs + first) * L;
                activate_all(gate + at, is_gated ? up + at : nullptr, (end - first) * L, layer.activation);
            }
        };
        if (is_gated) products({&layer.gate, &layer.up}, x, {gate, up}, false, activate);
        else products({&layer.up}, x, {gate}, false, activate);
    }
};

INLINE void read_embedding(const quintet_matrix &embedding, int64_t id, float *block, int64_t stride) {
    int64_t size = embedding.inputs;
    if (embedding.type == QUINTET_FLOAT32) {
        const float *row = (const float *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = row[d];
    } else if (embedding.type == QUINTET_INT8) {
        const int8_t *row = (const int8_t *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = (float)row[d] * scale_at(embedding, id);
    } else {
        const Brain *row = (const Brain *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = to_float(row[d]);
    }
}

}  // namespace quintet::QUINTET_ISA

// A step of the decoder: its own tokens, the source's, and the scores of what comes next.
#pragma once

#include "decoder_attention.h"
#include "pass.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t SCORED_AT_ONCE = 6;  // panels; a multiple of what a product takes at once

template <int L, class Number>
struct Decoding {
    const Step &step;
    Pass<L> pass;
    const quintet_model &model = step.model;
    int64_t tokens = step.rows * step.n;
    float *scores = step.space.scores + pass.member * step.space.scores_size;

    int64_t row_of(int64_t token) const { return token / step.n; }
    int64_t position_of(int64_t token) const { return step.length + token % step.n; }

    // Calls work(token, lane) for the tokens of a panel.
    template <class Work>
    void each_token(int64_t panel, const Work &work) const {
        for (int64_t lane = 0; lane < L && panel * L + lane < tokens; lane++) work(panel * L + lane, lane);
    }

    void embed() const {
        share(pass.team, pass.panels, [&](int64_t panel) {
            float *block = pass.states(panel);
            if (panel == pass.panels - 1) __builtin_memset(block, 0, model.d_model * L * 4);
            each_token(panel, [&](int64_t token, int64_t lane) {
                read_embedding(model.decoder.embedding, step.tokens[token], block + lane, L);
            });
        });
    }

    // Where a head's numbers of a token begin in pass.space.wide[which]; they lie L apart.
    float *numbers_of(int64_t which, int64_t token, int64_t head) const {
        return pass.space.wide[which] + (token / L * pass.inner() + head * model.d_kv) * L + token % L;
    }

    // They, filled up with zeros.
    void gather(const float *from, float *numbers) const {
        for (int64_t d = 0; d < model.d_kv; d++) numbers[d] = from[d * L];
        for (int64_t d = model.d_kv; d < step.targets.width; d++) numbers[d] = 0;
    }

    void scatter(const float *numbers, float *to) const {
        for (int64_t d = 0; d < model.d_kv; d++) to[d * L] = numbers[d];
    }

    void keep(int64_t number, int64_t panel, int64_t head) const {
        const Targets &targets = step.targets;
        const Chunk &chunk = targets.chunk[targets.chunks - 1];
        HeadNumbers numbers;
        each_token(panel, [&](int64_t token, int64_t) {
            const Chunk *own = &chunk;
            while (own->start > position_of(token)) own--;
            Number *to = (Number *)targets.slot(*own, number, head, row_of(token), position_of(token));
            float *scales = targets.scales(*own, number, head, row_of(token), position_of(token));
            for (int i = 0; i < 2; i++) {
                gather(numbers_of(1 + i, token, head), numbers);
                keep_numbers(numbers, targets.width, to + i * targets.width, scales + i);
            }
        });
    }

    void attend_own_tokens(const quintet_attention &own, int64_t number) const {
        pass.products({&own.query, &own.key, &own.value}, pass.normalized(own.norm, own.query),
                      {pass.space.wide[0], pass.space.wide[1], pass.space.wide[2]});
        int64_t items = pass.panels * model.heads;
        bool keeps_first = step.n > 1;  // a token looks at others of this step
        if (keeps_first)
            share(pass.team, items, [&](int64_t item) { keep(number, item / model.heads, item % model.heads); });
        share(pass.team, items, [&](int64_t item) {
            int64_t panel = item / model.heads, head = item % model.heads;
            if (!keeps_first) keep(number, panel, head);
            HeadBias bias(own, head);
            HeadNumbers query, result;
            each_token(panel, [&](int64_t token, int64_t) {
                gather(numbers_of(0, token, head), query);
                attend_own<Number>(query, step.targets, number, head, row_of(token), position_of(token), bias, scores,
                                   result);
                scatter(result, numbers_of(0, token, head));
            });
        });
        pass.output(own);
    }

    int64_t source_of(int64_t token) const { return step.source_of_row[row_of(token)]; }

    // How many tokens of a source may look at it together. One by one if some threads would have nothing to do.
    int64_t most_together() const { return L == 1 && model.heads < pass.team.size ? 1 : QUERIES_TOGETHER; }

    // How many tokens from `first` on do so, up to `end`.
    int64_t count_together(int64_t first, int64_t end) const {
        int64_t token = first + 1;
        end = least(end, first + most_together());
        while (token < end && source_of(token) == source_of(first)) token++;
        return token - first;
    }

    // Whether a token is the first of those that look at a source together.
    bool leads(int64_t token) const {
        int64_t before = 0;
        while (before < token && source_of(token - before - 1) == source_of(token)) before++;
        return before % most_together() == 0;
    }

    void attend_sources(const quintet_attention &cross, int64_t number) const {
        pass.products({&cross.query}, pass.normalized(cross.norm, cross.query), {pass.space.wide[0]});
        share(pass.team, pass.panels * model.heads, [&](int64_t item) {
            int64_t head = item / pass.panels, token = item % pass.panels * L;
            if (L == 1 && !leads(token)) return;
            int64_t end = L == 1 ? token + count_together(token, tokens) : least(token + L, tokens);
            while (token < end) {
                int64_t count = count_together(token, end);
                attend_source_of_tokens(number, head, token, count);
                token += count;
            }
        });
        pass.output(cross);
    }

    void attend_source_of_tokens(int64_t number, int64_t head, int64_t first, int64_t count) const {
        const Sources &sources = step.sources;
        HeadNumbers query[QUERIES_TOGETHER], result[QUERIES_TOGETHER];
        for (int64_t i = 0; i < count; i++) gather(numbers_of(0, first + i, head), query[i]);
        int64_t source = source_of(first);
        const Number *keys = (const Number *)sources.at(number, head, sources.first_panel[source]);
        attend_source<Number>(count, query, keys, sources.panel_bytes() / (int64_t)sizeof(Number),
                              sources.length[source], sources.width, scores, result);
        for (int64_t i = 0; i < count; i++) scatter(result[i], numbers_of(0, first + i, head));
    }

    void run() const {
        embed();
        for (int64_t number = 0; number < model.decoder.count; number++) {
            const quintet_layer &layer = model.decoder.layers[number];
            attend_own_tokens(layer.own, number);
            attend_sources(layer.cross, number);
            pass.feed_forward(layer.feed_forward);
        }
        write_states();
        write_scores();
    }

    void write_states() const {
        if (step.states == nullptr) return;
        float *room = pass.space.normal + pass.member * model.d_model * L;
        share(pass.team, pass.panels, [&](int64_t panel) {
            normalize<L>(pass.states(panel), model.d_model, model.decoder.norm, model.epsilon, 1.f, room);
            each_token(panel, [&](int64_t token, int64_t lane) {
                for (int64_t d = 0; d < model.d_model; d++) step.states[token * model.d_model + d] = room[d * L + lane];
            });
        });
    }

    // Moves the states of each row's last token to the front: only they are scored.
    int64_t keep_last() const {
        if (pass.member == 0)
            for (int64_t row = 0; row < step.rows; row++) {
                int64_t token = row * step.n + step.n - 1;
                const float *from = pass.states(token / L) + token % L;
                float *to = pass.states(row / L) + row % L;
                for (int64_t d = 0; d < model.d_model; d++) to[d * L] = from[d * L];
            }
        pass.team.meet();
        return step.rows;
    }

    void write_scores() const {
        int64_t count = step.all || step.n == 1 ? tokens : keep_last();
        Pass<L> last = pass;
        last.panels = (count + L - 1) / L;
        const quintet_matrix &head = model.head;
        // In 8 bits the states' few large numbers leave too little for the others, and scores are close.
        bool twice = head.type == QUINTET_INT8;
        Packed x = last.normalized(model.decoder.norm, head, model.head_scale, twice);
        Packed rest = Pass<L>::behind(x, last.panels);
        int64_t vocabulary = head.outputs, of_item = pass.rows_of_item(vocabulary);
        share(pass.team, (vocabulary + of_item - 1) / of_item, [&](int64_t item) {
            int64_t first = item * of_item, end = least(first + of_item, vocabulary);
            auto score = [&](int64_t panel, int64_t panels, float *out, int64_t stride) {
                multiply<L>(head, first, end, x, panel, panels, {out, stride, false});
                if (twice) multiply<L>(head, first, end, rest, panel, panels, {out, stride, true});
            };
            if constexpr (L == 1) {
                score(0, last.panels, step.scores + first, vocabulary);
            } else {
                float room[ROWS_AT_ONCE * L * SCORED_AT_ONCE];
                for (int64_t panel = 0; panel < last.panels; panel += SCORED_AT_ONCE) {
                    int64_t panels = least(SCORED_AT_ONCE, last.panels - panel);
                    score(panel, panels, room - panel * ROWS_AT_ONCE * L, ROWS_AT_ONCE * L);
                    for (int64_t p = 0; p < panels; p++)
                        for (int64_t lane = 0; lane < L && (panel + p) * L + lane < count; lane++) {
                            float *to = step.scores + ((panel + p) * L + lane) * vocabulary;
                            for (int64_t n = first; n < end; n++)
                                to[n] = room[(p * ROWS_AT_ONCE + n - first) * L + lane];
                        }
                }
            }
        });
    }
};

template <int L>
static void take_step(const Step &step, Team &team, int64_t member) {
    int64_t panels = (step.rows * step.n + L - 1) / L;
    Pass<L> pass{step.model, step.space, team, member, panels};
    switch (step.model.cache_type) {
        case QUINTET_FLOAT32: return Decoding<L, float>{step, pass}.run();
        case QUINTET_BFLOAT16: return Decoding<L, Brain>{step, pass}.run();
        default: return Decoding<L, int8_t>{step, pass}.run();
    }
}

static void take_any_step(const Step &step, Team &team, int64_t member) {
    Tiles tiles;
    if (step.one_by_one) take_step<1>(step, team, member);
    else take_step<LANES>(step, team, member);
}

}  // namespace quintet::QUINTET_ISA

// The passes through the encoder and the decoder. All threads run the same function and meet after each phase.
#include "network.h"

#include "attention.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t ROWS_AT_ONCE = 96;          // of weights, in an item of a product
constexpr int64_t BYTES_AT_ONCE = 1 << 20;   // of tokens' numbers, so that they stay in the second-level cache
constexpr int64_t NUMBERS_AT_ONCE = 512;      // of each token, in an item of an activation
constexpr int64_t SCORED_AT_ONCE = 6;         // panels; a multiple of what a product takes at once
constexpr int64_t MOST_NUMBERS = 256;         // of a head (d_kv)

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
        int64_t bytes = w.inputs * element_size(w.type);
        Packed x{space.rounded, 0, space.scale, space.total, 1, w.type, w.inputs, count};
        if (L > 1) x.stride = rounded_up(bytes, 4) * L;
        else x.stride = rounded_up(bytes, w.type == QUINTET_INT4 ? 2 * BYTES : 64);
        if (w.type == QUINTET_INT4) {
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

    // A phase: normalised states of some panels as the matrix `w` takes them; with `twice`, behind them what rounding
    // to int8 has taken, rounded in turn.
    Packed normalized(const quintet_matrix &norm, const quintet_matrix &w, float factor = 1.f,
                      bool twice = false) const {
        Packed x = packed(w, panels), rest = behind(x, panels);
        float *room = space.normal + member * model.d_model * L;
        share(team, panels, [&](int64_t panel) {
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
        share(team, count, [&](int64_t panel) { round_block<L>(blocks + panel * w.inputs * L, w.inputs, x, panel); });
        return x;
    }

    // A phase: products of the same numbers with some matrices; result i in blocks at out[i], or added to what is
    // there.
    template <int COUNT>
    void products(const quintet_matrix *const (&w)[COUNT], const Packed &x, float *const (&out)[COUNT],
                  bool adds = false) const {
        int64_t at_once = L == 1 ? x.panels : most(PARTS, BYTES_AT_ONCE / x.stride);
        int64_t bands[COUNT + 1] = {0};
        for (int i = 0; i < COUNT; i++) bands[i + 1] = bands[i] + (w[i]->outputs + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
        int64_t groups = (x.panels + at_once - 1) / at_once;
        share(team, bands[COUNT] * groups, [&](int64_t item) {
            int64_t band = item % bands[COUNT], panel = item / bands[COUNT] * at_once;
            int i = 0;
            while (band >= bands[i + 1]) i++;
            int64_t first = (band - bands[i]) * ROWS_AT_ONCE, end = least(first + ROWS_AT_ONCE, w[i]->outputs);
            Target to{out[i] + first * L, w[i]->outputs * L, adds};
            multiply<L>(*w[i], first, end, x, panel, least(at_once, x.panels - panel), to);
        });
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
            if (layer.gate.data == nullptr) products({&layer.up}, x, {space.wide[0]});
            else products({&layer.gate, &layer.up}, x, {space.wide[0], space.wide[1]});
            int64_t numbers = count * size * L;
            share(team, (numbers + NUMBERS_AT_ONCE * L - 1) / (NUMBERS_AT_ONCE * L), [&](int64_t item) {
                int64_t at = item * NUMBERS_AT_ONCE * L;
                const float *up = layer.gate.data == nullptr ? nullptr : space.wide[1] + at;
                activate_all(space.wide[0] + at, up, least(NUMBERS_AT_ONCE * L, numbers - at), layer.activation);
            });
            // Behind the numbers that later panels still need.
            Packed inner = packed(layer.down, count);
            inner.data = space.rounded + panels * all.stride;
            inner.scale += panels * L;
            inner.total += panels * L * all.totals;
            share(team, count,
                  [&](int64_t panel) { round_block<L>(space.wide[0] + panel * size * L, size, inner, panel); });
            products({&layer.down}, inner, {states(first)}, true);
        }
    }
};

INLINE void read_embedding(const quintet_matrix &embedding, int64_t id, float *block, int64_t stride) {
    int64_t size = embedding.inputs;
    if (embedding.type == QUINTET_FLOAT32) {
        const float *row = (const float *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = row[d];
    } else if (embedding.type == QUINTET_INT8) {
        const int8_t *row = (const int8_t *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = (float)row[d] * embedding.scale[id];
    } else {
        const Brain *row = (const Brain *)embedding.data + id * size;
        for (int64_t d = 0; d < size; d++) block[d * stride] = to_float(row[d]);
    }
}

// -- the encoder ----------------------------------------------------------------------------------------------------

template <class Number>
struct Encoder {
    static constexpr int L = LANES;
    const Encoding &job;
    Pass<L> pass;
    const quintet_model &model = job.model;
    int64_t size = model.d_model, stride = pass.inner() * L;
    float *room = job.space.scores + pass.member * job.space.scores_size;

    // The token in a panel's lane, or -1: panels begin with their source, so that the last of a source is not full.
    int64_t token_at(int64_t panel, int64_t lane) const {
        int64_t source = job.source_of_panel[panel];
        int64_t token = job.starts[source] + (panel - job.first_panel[source]) * L + lane;
        return token < job.starts[source + 1] ? token : -1;
    }

    void embed() const {
        share(pass.team, job.panels, [&](int64_t panel) {
            float *block = pass.states(panel);
            for (int64_t lane = 0; lane < L; lane++) {
                int64_t token = token_at(panel, lane);
                if (token < 0)
                    for (int64_t d = 0; d < size; d++) block[d * L + lane] = 0;
                else if (job.embeds != nullptr)
                    for (int64_t d = 0; d < size; d++) block[d * L + lane] = job.embeds[token * size + d];
                else read_embedding(model.encoder.embedding, job.ids[token], block + lane, L);
            }
        });
    }

    HeadMemory<Number> memory(int64_t source, int64_t head) const {
        int64_t width = HeadMemory<Number>::width_of(model.d_kv);
        int64_t at = (head * job.panels + job.first_panel[source]) * width * L;
        return {(Number *)job.space.keys + at, (Number *)job.space.values + at,
                job.starts[source + 1] - job.starts[source], model.d_kv};
    }

    float *bias(int64_t head) const { return job.space.bias + head * job.space.bias_size + job.space.bias_size / 2; }

    void attend(const quintet_attention &own) const {
        float *queries = job.space.wide[0], *keys = job.space.wide[1], *values = job.space.wide[2];
        pass.products({&own.query, &own.key, &own.value}, pass.normalized(own.norm, own.query),
                      {queries, keys, values});
        // Item: a panel of a head; those of a head come one after the other, so that its keys stay in the cache.
        auto each_panel = [&](auto work) {
            share(pass.team, job.panels * model.heads, [&](int64_t item) {
                int64_t panel = item % job.panels, head = item / job.panels, source = job.source_of_panel[panel];
                work(panel, head, source, panel - job.first_panel[source], panel * stride + head * model.d_kv * L);
            });
        };
        each_panel([&](int64_t panel, int64_t head, int64_t source, int64_t number, int64_t at) {
            if (panel == 0) lay_out_bias(HeadBias(own, head), job.space.bias_size / 2 - L, bias(head));
            memory(source, head).keep(number, keys + at, values + at);
        });
        each_panel([&](int64_t panel, int64_t head, int64_t source, int64_t number, int64_t at) {
            if (number % QUERIES_AT_ONCE != 0) return;  // taken along by the panel before
            int64_t count = least(QUERIES_AT_ONCE, job.first_panel[source + 1] - panel);
            attend_panels(queries + at, stride, count, memory(source, head), bias(head) + number * L,
                          job.visible == nullptr ? nullptr : job.visible + job.starts[source], room);
        });
        pass.output(own);
    }

    void run() const {
        embed();
        for (int64_t number = 0; number < model.encoder.count; number++) {
            attend(model.encoder.layers[number].own);
            pass.feed_forward(model.encoder.layers[number].feed_forward);
        }
        write_states();
    }

    void write_states() const {
        float *block = job.space.normal + pass.member * size * L;
        share(pass.team, job.panels, [&](int64_t panel) {
            normalize<L>(pass.states(panel), size, model.encoder.norm, model.epsilon, 1.f, block);
            for (int64_t lane = 0; lane < L; lane++) {
                int64_t token = token_at(panel, lane);
                if (token >= 0)
                    for (int64_t d = 0; d < size; d++) job.states[token * size + d] = block[d * L + lane];
            }
        });
    }
};

static void encode(const Encoding &job, Team &team, int64_t member) {
    Tiles tiles;
    Pass<LANES> pass{job.model, job.space, team, member, job.panels};
    if (job.model.narrow) Encoder<Brain>{job, pass}.run();
    else Encoder<float>{job, pass}.run();
}

// -- the decoder ----------------------------------------------------------------------------------------------------

// Keys and values of the sources in every layer.
static void read_sources(const SourceReading &job, Team &team, int64_t member) {
    constexpr int L = LANES;
    Tiles tiles;
    const quintet_model &model = job.model;
    const Sources &sources = job.sources;
    Pass<L> pass{model, job.space, team, member, sources.panels};
    int64_t size = model.d_model, numbers = model.d_kv * L;
    share(team, sources.panels, [&](int64_t panel) {
        float *block = pass.states(panel);
        int64_t source = job.source_of_panel[panel], before = (panel - sources.first_panel[source]) * L;
        for (int64_t lane = 0; lane < L; lane++)
            for (int64_t d = 0; d < size; d++)
                block[d * L + lane] = before + lane < sources.length[source]
                                          ? job.states[(job.starts[source] + before + lane) * size + d]
                                          : 0.f;
    });
    Packed x{};
    for (int64_t number = 0; number < model.decoder.count; number++) {
        const quintet_attention &cross = model.decoder.layers[number].cross;
        if (number == 0) x = pass.rounded(job.space.states, cross.key, sources.panels);
        pass.products({&cross.key, &cross.value}, x, {job.space.wide[0], job.space.wide[1]});
        share(team, sources.panels * model.heads, [&](int64_t item) {
            int64_t panel = item / model.heads, head = item % model.heads;
            for (int which = 0; which < 2; which++) {
                const float *from = job.space.wide[which] + (panel * model.heads + head) * numbers;
                uint8_t *to = sources.at(number, head, panel) + which * numbers * sources.size;
                for (int64_t at = 0; at < numbers; at += WIDTH) {
                    if (model.narrow) store_brain((Brain *)to + at, load(from + at));
                    else store((float *)to + at, load(from + at));
                }
            }
        });
    }
}

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

    // One head's numbers of one lane, filled up with zeros.
    void gather(const float *block, int64_t lane, float *result) const {
        for (int64_t d = 0; d < model.d_kv; d++) result[d] = block[d * L + lane];
        for (int64_t d = model.d_kv; d < step.targets.width; d++) result[d] = 0;
    }

    void keep(int64_t number, int64_t panel, int64_t head) const {
        const Targets &targets = step.targets;
        const Chunk &chunk = targets.chunk[targets.chunks - 1];
        int64_t at = (panel * pass.inner() + head * model.d_kv) * L;
        float numbers[MOST_NUMBERS];
        each_token(panel, [&](int64_t token, int64_t lane) {
            const Chunk *own = &chunk;
            while (own->start > position_of(token)) own--;
            Number *to = (Number *)targets.slot(*own, number, head, row_of(token), position_of(token));
            for (int i = 1; i <= 2; i++, to += targets.width) {
                gather(pass.space.wide[i] + at, lane, numbers);
                for (int64_t d = 0; d < targets.width; d += WIDTH) store_as(to + d, load(numbers + d));
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
            float query[MOST_NUMBERS], result[MOST_NUMBERS];
            float *block = pass.space.wide[0] + (panel * pass.inner() + head * model.d_kv) * L;
            each_token(panel, [&](int64_t token, int64_t lane) {
                gather(block, lane, query);
                attend_own<Number>(query, step.targets, number, head, row_of(token), position_of(token), bias, scores,
                                   result);
                for (int64_t d = 0; d < model.d_kv; d++) block[d * L + lane] = result[d];
            });
        });
        pass.output(own);
    }

    void attend_sources(const quintet_attention &cross, int64_t number) const {
        const Sources &sources = step.sources;
        int64_t numbers = model.d_kv * LANES;
        pass.products({&cross.query}, pass.normalized(cross.norm, cross.query), {pass.space.wide[0]});
        share(pass.team, pass.panels * model.heads, [&](int64_t item) {
            int64_t panel = item / model.heads, head = item % model.heads;
            float query[MOST_NUMBERS], result[MOST_NUMBERS];
            float *block = pass.space.wide[0] + (panel * pass.inner() + head * model.d_kv) * L;
            each_token(panel, [&](int64_t token, int64_t lane) {
                gather(block, lane, query);
                int64_t source = step.source_of_row[row_of(token)];
                const Number *keys = (const Number *)sources.at(number, head, sources.first_panel[source]);
                attend_source<Number>(query, keys, keys + numbers, 2 * numbers, sources.length[source], model.d_kv,
                                      scores, result);
                for (int64_t d = 0; d < model.d_kv; d++) block[d * L + lane] = result[d];
            });
        });
        pass.output(cross);
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
        int64_t vocabulary = head.outputs;
        share(pass.team, (vocabulary + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE, [&](int64_t item) {
            int64_t first = item * ROWS_AT_ONCE, end = least(first + ROWS_AT_ONCE, vocabulary);
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
    if (step.model.narrow) Decoding<L, Brain>{step, pass}.run();
    else Decoding<L, float>{step, pass}.run();
}

static void take_any_step(const Step &step, Team &team, int64_t member) {
    Tiles tiles;
    if (step.one_by_one) take_step<1>(step, team, member);
    else take_step<LANES>(step, team, member);
}

// -- a single product -----------------------------------------------------------------------------------------------

template <int L>
static void multiply_blocks(const Product &job, Team &team, int64_t member) {
    const quintet_matrix &w = job.w;
    quintet_model model{};
    model.d_model = w.inputs;
    Pass<L> pass{model, job.space, team, member, (job.tokens + L - 1) / L};
    share(team, pass.panels, [&](int64_t panel) {
        float *block = pass.states(panel);
        for (int64_t lane = 0; lane < L; lane++)
            for (int64_t i = 0; i < w.inputs; i++) {
                int64_t token = panel * L + lane;
                block[i * L + lane] = token < job.tokens ? job.numbers[token * w.inputs + i] : 0.f;
            }
    });
    pass.products({&w}, pass.rounded(job.space.states, w, pass.panels), {job.space.wide[0]});
    share(team, pass.panels, [&](int64_t panel) {
        for (int64_t lane = 0; lane < L && panel * L + lane < job.tokens; lane++)
            for (int64_t n = 0; n < w.outputs; n++)
                job.result[(panel * L + lane) * w.outputs + n] = job.space.wide[0][(panel * w.outputs + n) * L + lane];
    });
}

static void multiply_any(const Product &job, Team &team, int64_t member) {
    Tiles tiles;
    if (job.many) multiply_blocks<LANES>(job, team, member);
    else multiply_blocks<1>(job, team, member);
}

}  // namespace quintet::QUINTET_ISA

namespace quintet {

#define JOIN(a, b) a##b
#define NAMED(isa) JOIN(isa, _network)
#define TEXT(name) #name
#define QUOTED(name) TEXT(name)

const Network &NAMED(QUINTET_ISA)() {
    // Measured where both kinds of kernels take the same time.
#if defined(__AMX_TILE__)
    constexpr int64_t few = 12, few_small = 5;
#elif defined(__AVX512F__)
    constexpr int64_t few = 12, few_small = 8;
#else
    constexpr int64_t few = 8, few_small = 8;
#endif
    static const Network network = {QUOTED(QUINTET_ISA),
                                    few,
                                    few_small,
                                    QUINTET_ISA::encode,
                                    QUINTET_ISA::read_sources,
                                    QUINTET_ISA::take_any_step,
                                    QUINTET_ISA::multiply_any};
    return network;
}

}  // namespace quintet

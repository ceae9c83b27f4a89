// The passes through the encoder, and from its states to the keys and values that the decoder looks at.
#pragma once

#include "encoder_attention.h"
#include "pass.h"

namespace quintet::QUINTET_ISA {

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

// Keys and values of the sources in every layer.
template <class Number>
static void keep_sources(const SourceReading &job, Team &team, int64_t member) {
    constexpr int L = LANES;
    const quintet_model &model = job.model;
    const Sources &sources = job.sources;
    Pass<L> pass{model, job.space, team, member, sources.panels};
    int64_t size = model.d_model;
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
            int64_t panel = item / model.heads, head = item % model.heads, kept = sources.width * L;
            Number *to = (Number *)sources.at(number, head, panel);
            float *scales = (float *)(to + 2 * kept);
            for (int which = 0; which < 2; which++)
                keep_rows(job.space.wide[which] + (panel * model.heads + head) * model.d_kv * L, model.d_kv,
                          to + which * kept, scales + which * L);
        });
    }
}

static void read_sources(const SourceReading &job, Team &team, int64_t member) {
    Tiles tiles;
    switch (job.model.cache_type) {
        case QUINTET_FLOAT32: return keep_sources<float>(job, team, member);
        case QUINTET_BFLOAT16: return keep_sources<Brain>(job, team, member);
        default: return keep_sources<int8_t>(job, team, member);
    }
}

}  // namespace quintet::QUINTET_ISA

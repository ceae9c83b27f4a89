// Behind the C functions: which instruction set, room for a pass, sessions, errors.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "memory.h"
#include "network.h"
#include "quintet.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

using namespace quintet;

namespace {

constexpr int64_t LANES = 16;
constexpr int64_t KEPT_BYTES = 8 << 20;  // for a product's right factor; more is given back after it

thread_local std::string last_error;

// Runs `work`; exceptions become an error text and `failed`.
template <class Result, class Work>
Result guarded(Result failed, const Work &work) {
    try {
        return work();
    } catch (const std::bad_alloc &) {
        last_error = "out of memory: use fewer or shorter sources at a time";
    } catch (const std::exception &error) {
        last_error = error.what();
    }
    return failed;
}

// -- the instruction set --------------------------------------------------------------------------------------------

#if defined(QUINTET_HAS_AMX)
// AMX is there if the processor has its three parts and Linux lets this process use the tiles (it asks to be asked).
bool may_use_tiles() {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    const unsigned parts = 1u << 22 | 1u << 24 | 1u << 25;  // bfloat16, tiles, int8
    const long request_permission = 0x1023, tile_data = 18;
    return (d & parts) == parts && syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

std::vector<const Network *> supported_networks() {
    std::vector<const Network *> found = {&portable_network()};
#if defined(QUINTET_HAS_AVX2)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&avx2_network());
#endif
#if defined(QUINTET_HAS_AVX512)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("avx512bf16"))
        found.push_back(&avx512_network());
#endif
#if defined(QUINTET_HAS_AMX)
    if (found.back()->name == std::string("avx512") && may_use_tiles()) found.push_back(&amx_network());
#endif
    return found;
}

const Network *network_named(const char *wanted) {
    std::string names;
    for (const Network *network : supported_networks()) {
        if (std::strcmp(network->name, wanted) == 0) return network;
        names += (names.empty() ? "" : ", ") + std::string(network->name);
    }
    throw std::runtime_error("the instruction set \"" + std::string(wanted) + "\" (QUINTET_ISA) is not there; this " +
                             "processor has " + names);
}

std::atomic<const Network *> chosen{nullptr};

const Network &network() {
    if (chosen == nullptr) {
        const char *wanted = std::getenv("QUINTET_ISA");
        chosen = wanted == nullptr || *wanted == 0 ? supported_networks().back() : network_named(wanted);
    }
    return *chosen;
}

int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

template <class Job>
void run(void (*pass)(const Job &, Team &, int64_t), const Job &job, int64_t members) {
    struct Call {
        void (*pass)(const Job &, Team &, int64_t);
        const Job *job;
    } call{pass, &job};
    run_together(
        members,
        [](void *context, Team &team, int64_t member) {
            const Call &call = *static_cast<Call *>(context);
            call.pass(*call.job, team, member);
        },
        &call);
}

template <class Job>
void run(void (*pass)(const Job &, Team &, int64_t), const Job &job) {
    run(pass, job, job.space.members);
}

// -- room for a pass ------------------------------------------------------------------------------------------------

struct Room {
    Buffer states, wide[3], normal, rounded, scale, total, scores, keys, values, bias;

    // For `panels` blocks of L tokens that look at up to `keys` others.
    Space make(const quintet_model &model, const quintet_stack &stack, int64_t panels, int64_t lanes, int64_t keys) {
        int64_t inner = model.heads * model.d_kv, d_ff = 0;
        for (int64_t layer = 0; layer < stack.count; layer++)
            d_ff = std::max(d_ff, stack.layers[layer].feed_forward.up.outputs);
        int64_t narrow = std::max(model.d_model, inner);
        int64_t at_once = std::min(panels, PANELS_OF_FEED_FORWARD);
        auto line = [&](int64_t numbers) { return round_up(round_up(numbers, 4) * 4 * lanes, 128); };
        auto sums = [](int64_t numbers) { return numbers / 8 + LANES * 2; };  // int4 has one of 8 numbers at most
        int64_t members = threads(), copies = panels == 1 ? members : 1;
        Space space{};
        space.single = panels == 1;
        space.rounded_size = panels * line(narrow) + at_once * line(d_ff);
        space.scale_size = 2 * panels * lanes + LANES;  // twice for feed-forward layers and for scores
        space.total_size = (panels * sums(narrow) + at_once * sums(d_ff)) * lanes;
        states.reserve(panels * model.d_model * lanes * 4);
        for (Buffer &buffer : wide) buffer.reserve(std::max(panels * inner, at_once * d_ff) * lanes * 4);
        normal.reserve(members * model.d_model * lanes * 4);
        rounded.reserve(copies * space.rounded_size);
        scale.reserve(copies * space.scale_size * 4);
        total.reserve(copies * space.total_size * 4);
        space.members = members;
        space.states = states.floats();
        for (int i = 0; i < 3; i++) space.wide[i] = wide[i].floats();
        space.normal = normal.floats();
        space.rounded = rounded.bytes();
        space.scale = scale.floats();
        space.total = reinterpret_cast<int32_t *>(total.bytes());
        make_scores(space, round_up(keys, LANES) * QUERIES_TOGETHER);
        return space;
    }

    // For the encoder over `panels`, of which the longest source has `longest` tokens.
    Space make_encoder(const quintet_model &model, int64_t panels, int64_t longest) {
        Space space = make(model, model.encoder, panels, LANES, 0);
        int64_t bytes = panels * model.heads * LANES * (model.narrow ? (model.d_kv + 1) / 2 * 4 : model.d_kv * 4);
        keys.reserve(bytes);
        values.reserve(bytes);
        space.keys = keys.bytes();
        space.values = values.bytes();
        space.bias_size = 2 * (longest + LANES);
        bias.reserve(model.heads * space.bias_size * 4);
        space.bias = bias.floats();
        make_scores(space, QUERIES_AT_ONCE * (round_up(longest, LANES) + model.d_kv + 1) * LANES);
        return space;
    }

private:
    void make_scores(Space &space, int64_t size) {
        scores.reserve(space.members * size * 4);
        space.scores = scores.floats();
        space.scores_size = size;
    }
};

// Sources in panels of 16 tokens, each beginning a panel.
struct Layout {
    std::vector<int64_t> first_panel, source_of_panel, length;
    int64_t panels = 0, longest = 0;

    Layout(const int64_t *starts, int64_t sources) {
        for (int64_t source = 0; source < sources; source++) {
            int64_t tokens = starts[source + 1] - starts[source];
            if (tokens < 1) throw std::invalid_argument("source " + std::to_string(source) + " is empty");
            first_panel.push_back(panels);
            length.push_back(tokens);
            longest = std::max(longest, tokens);
            panels += round_up(tokens, LANES) / LANES;
            source_of_panel.resize(panels, source);
        }
        first_panel.push_back(panels);
    }
};

void check_tokens(const char *name, const int64_t *tokens, int64_t count, const quintet_matrix &embedding) {
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= embedding.outputs)
            throw std::out_of_range(std::string(name) + " must be from 0 to " + std::to_string(embedding.outputs - 1) +
                                    ", got " + std::to_string(tokens[i]));
}

}  // namespace

// -- sessions -------------------------------------------------------------------------------------------------------

struct quintet_session {
    const quintet_model &model;
    Layout layout;
    Buffer source_memory;
    Room room;
    std::vector<int64_t> source_of_row;
    int64_t length = 0;

    quintet_session(const quintet_model &model, const float *states, const int64_t *starts, int64_t count)
        : model(model), layout(starts, count) {
        if (model.d_kv > 256) throw std::invalid_argument("d_kv must be at most 256");
        source_memory.reserve(model.decoder.count * model.heads * layout.panels * sources().panel_bytes());
        for (int64_t source = 0; source < count; source++) source_of_row.push_back(source);
        Space space = room.make(model, model.decoder, layout.panels, LANES, 0);
        run(network().read_sources,
            SourceReading{model, space, states, starts, layout.source_of_panel.data(), sources()});
        room = Room();
    }

    int64_t rows() const { return static_cast<int64_t>(source_of_row.size()); }
    CacheType kept() const {
        switch (model.cache_type) {
            case QUINTET_FLOAT32: return {4, 0};
            case QUINTET_BFLOAT16: return {2, 0};
            default: return {1, sizeof(float)};
        }
    }

    Sources sources() const {
        return {source_memory.bytes(), layout.panels,           model.heads, round_up(model.d_kv, 2), kept(),
                layout.first_panel.data(), layout.length.data()};
    }

    void step(const int64_t *tokens, int64_t n, bool all, float *scores, float *states) {
        if (n < 1) throw std::invalid_argument("a step takes at least one token for each row");
        check_tokens("decoder_input_ids", tokens, rows() * n, model.decoder.embedding);
        try {
            extend(n);
            compute(tokens, n, all, scores, states);
        } catch (...) {
            crop(length);  // without room or threads, the session is as it was
            throw;
        }
        length += n;
    }

    void select(const int64_t *chosen, int64_t count) {
        for (int64_t i = 0; i < count; i++)
            if (chosen[i] < 0 || chosen[i] >= rows())
                throw std::out_of_range("row " + std::to_string(chosen[i]) + " of " + std::to_string(rows()));
        auto pick = [&](auto &from, int64_t at) {
            auto old = std::vector(from.begin() + at * rows(), from.begin() + (at + 1) * rows());
            std::vector<typename std::decay_t<decltype(from)>::value_type> picked;
            for (int64_t i = 0; i < count; i++) picked.push_back(old[chosen[i]]);
            return picked;
        };
        for (Stored &chunk : chunks_) {
            std::vector<int32_t> place;
            for (int64_t at = 0; at < chunk.count; at++) {
                std::vector<int32_t> picked = pick(chunk.place, at);
                place.insert(place.end(), picked.begin(), picked.end());
            }
            chunk.place = std::move(place);
        }
        source_of_row = pick(source_of_row, 0);
    }

    void crop(int64_t kept) {
        if (kept < 0 || kept > length)
            throw std::out_of_range("cannot keep " + std::to_string(kept) + " of " + std::to_string(length) +
                                    " tokens");
        while (!chunks_.empty() && chunks_.back().start >= kept) chunks_.pop_back();
        if (!chunks_.empty()) {
            chunks_.back().count = kept - chunks_.back().start;
            chunks_.back().place.resize(chunks_.back().count * rows());
        }
        length = kept;
    }

private:
    struct Stored {
        int64_t start, count, rows;
        Buffer data;
        std::vector<int32_t> place;
    };
    std::vector<Stored> chunks_;

    int64_t width() const { return round_up(model.d_kv, 2 * LANES); }

    // The scores, and states, of n tokens of each row, which there is room for.
    void compute(const int64_t *tokens, int64_t n, bool all, float *scores, float *states) {
        std::vector<Chunk> views;
        for (const Stored &chunk : chunks_)
            views.push_back({chunk.start, chunk.count, chunk.rows, chunk.data.bytes(),
                             const_cast<int32_t *>(chunk.place.data()), rows()});
        Targets targets{views.data(), static_cast<int64_t>(views.size()), model.heads, width(), kept()};
        const quintet_matrix &weights = model.decoder.count > 0 ? model.decoder.layers->own.query : model.head;
        int64_t lanes = rows() * n <= network().few[weights.type] ? 1 : LANES;
        int64_t panels = (rows() * n + lanes - 1) / lanes;
        Space space = room.make(model, model.decoder, panels, lanes, std::max(length + n, layout.longest));
        run(network().step, Step{model, space, sources(), targets, source_of_row.data(), tokens, rows(), n, length, all,
                                 lanes == 1, scores, states});
    }

    // Room for n more tokens of each row, which are in the rows' own places.
    void extend(int64_t n) {
        for (int64_t position = length; position < length + n; position++) {
            if (chunks_.empty() || chunks_.back().count == Chunk::SPAN || chunks_.back().rows < rows()) {
                Stored chunk{position, 0, rows(), {}, {}};
                chunk.data.reserve(model.decoder.count * model.heads * rows() *
                                   kept().bytes(Chunk::SPAN, width()));
                chunks_.push_back(std::move(chunk));
            }
            chunks_.back().count++;
            for (int64_t row = 0; row < rows(); row++) chunks_.back().place.push_back(static_cast<int32_t>(row));
        }
    }
};

// -- the C functions ------------------------------------------------------------------------------------------------

int quintet_version(void) { return QUINTET_VERSION; }

const char *quintet_error(void) { return last_error.c_str(); }

const char *quintet_instruction_set(void) {
    return guarded<const char *>(nullptr, [] { return network().name; });
}

int quintet_set_instruction_set(const char *name) {
    return guarded(-1, [&] { return chosen = network_named(name), 0; });
}

void quintet_use_openmp(void *parallel, void *thread_number, void *thread_count) {
    use_openmp({reinterpret_cast<void (*)(void (*)(void *), void *, unsigned, unsigned)>(parallel),
                reinterpret_cast<int (*)()>(thread_number), reinterpret_cast<int (*)()>(thread_count)});
}

int quintet_set_threads(int64_t count) {
    return guarded(-1, [&] { return set_threads(count), 0; });
}

int quintet_multiply(const quintet_matrix *matrix, const float *numbers, int64_t tokens, int32_t many, float *result) {
    return guarded(-1, [&] {
        quintet_model model{};
        model.d_model = matrix->inputs;
        model.heads = 1;
        model.d_kv = matrix->outputs;
        int64_t lanes = many ? LANES : 1;
        Room room;
        Space space = room.make(model, quintet_stack{}, (tokens + lanes - 1) / lanes, lanes, 0);
        run(network().multiply, Product{*matrix, space, numbers, tokens, many != 0, result});
        return 0;
    });
}

int quintet_gemm(const quintet_view *left, const quintet_view *right, const quintet_view *result, int32_t adds) {
    return guarded(-1, [&] {
        auto units = [](const quintet_view &view) {
            auto up = [](int64_t number, int64_t step) { return (number + step - 1) / step * step; };
            return up(std::max<int64_t>(view.rows, 1), IN_SUM) * up(view.columns, SIDE) * 2;
        };
        quintet_view a = *left, b = *right, c = *result;
        // The right factor is laid out as a whole, which is worth it if enough rows meet it: else the other one is.
        if (4 * a.rows < b.columns) {
            std::swap(a, b);
            for (quintet_view *view : {&a, &b, &c}) {
                std::swap(view->rows, view->columns);
                std::swap(view->row_stride, view->column_stride);
            }
        }
        // Products come by hundreds; a buffer made anew for each would be filled with zeros first, by the system.
        static thread_local Buffer kept, rows, sums;
        Buffer large;
        Buffer &right_units = units(b) > KEPT_BYTES ? large : kept;
        int64_t members = threads();
        right_units.reserve(units(b));
        rows.reserve(members * GROUP * DEPTH * 2);
        sums.reserve(members * GROUP * BAND * 4);
        run(network().gemm, Gemm{a, b, c, adds != 0, right_units.bytes(), rows.bytes(), sums.floats()}, members);
        return 0;
    });
}

int quintet_encode(const quintet_model *model, const int64_t *ids, const float *embeds, const uint8_t *visible,
                   const int64_t *starts, int64_t sources, float *states) {
    return guarded(-1, [&] {
        if (ids != nullptr) check_tokens("input_ids", ids, starts[sources], model->encoder.embedding);
        Layout layout(starts, sources);
        Room room;
        Space space = room.make_encoder(*model, layout.panels, layout.longest);
        run(network().encode, Encoding{*model, space, ids, embeds, visible, starts, sources, layout.first_panel.data(),
                                       layout.source_of_panel.data(), layout.panels, states});
        return 0;
    });
}

quintet_session *quintet_session_new(const quintet_model *model, const float *states, const int64_t *starts,
                                     int64_t sources) {
    return guarded<quintet_session *>(nullptr, [&] { return new quintet_session(*model, states, starts, sources); });
}

int quintet_session_step(quintet_session *session, const int64_t *tokens, int64_t n, int32_t all, float *scores,
                         float *states) {
    return guarded(-1, [&] { return session->step(tokens, n, all != 0, scores, states), 0; });
}

int quintet_session_select(quintet_session *session, const int64_t *rows, int64_t count) {
    return guarded(-1, [&] { return session->select(rows, count), 0; });
}

int quintet_session_crop(quintet_session *session, int64_t length) {
    return guarded(-1, [&] { return session->crop(length), 0; });
}

void quintet_session_free(quintet_session *session) { delete session; }

// Goes through the engine's C functions, to be run under sanitizers (`make sanitize`): odd shapes, each type of weights
// and each instruction set, sessions whose rows change, several threads, a child of fork. Numbers lie in blocks of
// exactly their size, so that reading beyond them is found. Results are compared with those of the portable kernels;
// that these are right is for tests/engine to show.
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "quintet.h"

namespace {

using Floats = std::vector<float>;

void require(bool holds, const std::string &what) {
    if (holds) return;
    std::fprintf(stderr, "%s (%s)\n", what.c_str(), quintet_error());
    std::exit(1);
}

void check(int status, const char *what) { require(status == 0, what); }

std::mt19937 &generator() {
    thread_local std::mt19937 own(7);
    return own;
}

Floats random_floats(int64_t count, float scale = 1.f) {
    std::normal_distribution<float> normal(0.f, scale);
    Floats found(count);
    for (float &number : found) number = normal(generator());
    return found;
}

// The relative difference to the largest number.
float difference(const Floats &a, const Floats &b) {
    float off = 0, largest = 1e-30f;
    for (size_t i = 0; i < a.size(); i++) {
        off = std::fmax(off, std::fabs(a[i] - b[i]));
        largest = std::fmax(largest, std::fabs(b[i]));
    }
    return std::isfinite(off) ? off / largest : INFINITY;
}

// Owns the numbers that matrices point to.
struct Storage {
    std::vector<std::unique_ptr<char[]>> blocks;

    const float *keep(Floats numbers) {
        // Not a vector's own memory: that may be larger than it says.
        char *block = bytes(numbers.size() * sizeof(float));
        std::memcpy(block, numbers.data(), numbers.size() * sizeof(float));
        return reinterpret_cast<float *>(block);
    }

    // The upper halves of floats: bfloat16, cut off.
    const char *keep_halves(const Floats &numbers) {
        char *block = bytes(2 * numbers.size());
        for (size_t i = 0; i < numbers.size(); i++)
            std::memcpy(block + 2 * i, reinterpret_cast<const char *>(&numbers[i]) + 2, 2);
        return block;
    }

    char *bytes(int64_t count) {
        blocks.emplace_back(new char[count]);
        return blocks.back().get();
    }

    quintet_matrix matrix(int32_t type, int64_t outputs, int64_t inputs, int32_t group = 0) {
        quintet_matrix found{nullptr, nullptr, outputs, inputs, type, group, QUINTET_FLOAT32};
        const float scale = 1.f / std::sqrt(static_cast<float>(inputs));
        if (type == QUINTET_FLOAT32) {
            found.data = keep(random_floats(outputs * inputs, scale));
            return found;
        }
        if (type == QUINTET_BFLOAT16) {
            found.data = keep_halves(random_floats(outputs * inputs, scale));
            return found;
        }
        const int64_t size = outputs * inputs / (type == QUINTET_INT8 ? 1 : 2);
        char *data = bytes(size);
        for (int64_t i = 0; i < size; i++) data[i] = static_cast<char>(generator()());
        found.data = data;
        const Floats scales(outputs * (group == 0 ? 1 : inputs / group), scale / (type == QUINTET_INT8 ? 64.f : 4.f));
        // Those of bfloat16 are in half of the room: reading them as float32 goes beyond it.
        found.scale_type = type == QUINTET_INT4 && group == 0 ? QUINTET_FLOAT32 : QUINTET_BFLOAT16;
        if (found.scale_type == QUINTET_FLOAT32) found.scale = keep(scales);
        else found.scale = keep_halves(scales);
        return found;
    }
};

std::vector<std::string> instruction_sets() {
    std::vector<std::string> found;
    for (const char *name : {"portable", "avx2", "avx512", "amx"})
        if (quintet_set_instruction_set(name) == 0) found.push_back(name);
    require(quintet_set_instruction_set("none") == -1, "an unknown instruction set was taken");
    return found;
}

// -- single products ------------------------------------------------------------------------------------------------

void try_product(const quintet_matrix &matrix, int64_t tokens) {
    Storage storage;
    const float *numbers = storage.keep(random_floats(tokens * matrix.inputs));
    Floats expected;
    for (const std::string &name : instruction_sets())
        for (int32_t many = 0; many < 2; many++) {
            check(quintet_set_instruction_set(name.c_str()), "set");
            auto *result = reinterpret_cast<float *>(storage.bytes(tokens * matrix.outputs * 4));
            check(quintet_multiply(&matrix, numbers, tokens, many, result), "multiply");
            Floats found(result, result + tokens * matrix.outputs);
            if (expected.empty()) expected = found;
            // With AMX, many tokens meet int4 as bfloat16, not as int8.
            const bool rounds_otherwise = matrix.type == QUINTET_INT4 && many && name == "amx";
            require(difference(found, expected) < (rounds_otherwise ? 0.1f : 0.02f),
                    "products with " + name + " differ");
        }
}

void try_products() {
    const int64_t outputs[] = {1, 3, 17, 33, 100}, inputs[] = {1, 5, 31, 64, 131}, tokens[] = {1, 2, 7, 17, 33, 49};
    for (int64_t n : outputs)
        for (int64_t k : inputs)
            for (int64_t t : tokens) {
                Storage storage;
                for (int32_t type : {QUINTET_FLOAT32, QUINTET_BFLOAT16, QUINTET_INT8})
                    try_product(storage.matrix(type, n, k), t);
                for (int32_t group : {0, 16, 32, 64, 128}) {
                    const int64_t unit = group == 0 ? 8 : group;
                    try_product(storage.matrix(QUINTET_INT4, n, (k + unit - 1) / unit * unit, group), t);
                }
            }
}

// Of matrices that lie row by row or transposed: in blocks of their own size too.
void try_gemm(int64_t m, int64_t k, int64_t n, int32_t left_type, int32_t right_type, bool left_turned,
              bool right_turned, bool turned) {
    Storage storage;
    auto view = [&](int64_t rows, int64_t columns, int32_t type, bool turned) {
        void *data = const_cast<void *>(storage.matrix(type, rows, columns).data);
        return turned ? quintet_view{data, rows, columns, 1, rows, type}
                      : quintet_view{data, rows, columns, columns, 1, type};
    };
    const quintet_view left = view(m, k, left_type, left_turned), right = view(k, n, right_type, right_turned);
    Floats expected;
    for (const std::string &name : instruction_sets()) {
        check(quintet_set_instruction_set(name.c_str()), "set");
        auto *result = reinterpret_cast<float *>(storage.bytes(m * n * 4));
        const quintet_view to{result, m, n, turned ? 1 : n, turned ? m : 1, QUINTET_FLOAT32};
        check(quintet_gemm(&left, &right, &to, 0), "gemm");
        check(quintet_gemm(&left, &right, &to, 1), "gemm");
        Floats found(result, result + m * n);
        if (expected.empty()) expected = found;
        require(difference(found, expected) < 1e-4f, "gemm with " + name + " differs");
    }
}

void try_gemms() {
    for (int64_t m : {1, 17, 130})
        for (int64_t k : {1, 66, 1030})
            for (int64_t n : {1, 33, 530})
                for (int ways = 0; ways < 32; ways++)
                    try_gemm(m, k, n, ways & 1 ? QUINTET_FLOAT32 : QUINTET_BFLOAT16,
                             ways & 2 ? QUINTET_FLOAT32 : QUINTET_BFLOAT16, ways & 4, ways & 8, ways & 16);
    try_gemm(3, 9, 480000, QUINTET_FLOAT32, QUINTET_BFLOAT16, false, true, false);  // the left one is laid out
}

// -- whole networks -------------------------------------------------------------------------------------------------

struct Network {
    static constexpr int64_t VOCABULARY = 37, REACH = 20;
    Storage storage;
    std::vector<quintet_layer> encoder, decoder;
    quintet_model model{};

    Network(int32_t type, int64_t d_model, int64_t heads, int64_t d_kv, int64_t d_ff, bool is_gated) {
        const int32_t plain = type == QUINTET_FLOAT32 ? QUINTET_FLOAT32 : QUINTET_BFLOAT16;
        const int64_t inner = heads * d_kv;
        auto attention = [&](bool has_bias) {
            quintet_attention found{};
            found.norm = storage.matrix(plain, 1, d_model);
            for (quintet_matrix *part : {&found.query, &found.key, &found.value})
                *part = storage.matrix(type, inner, d_model);
            found.output = storage.matrix(type, d_model, inner);
            if (has_bias) found.bias = storage.keep(random_floats(heads * (2 * REACH + 1)));
            found.reach = has_bias ? REACH : 0;
            return found;
        };
        auto layer = [&](bool is_decoder) {
            quintet_layer found{};
            found.own = attention(true);
            if (is_decoder) found.cross = attention(false);
            found.feed_forward.norm = storage.matrix(plain, 1, d_model);
            if (is_gated) found.feed_forward.gate = storage.matrix(type, d_ff, d_model);
            found.feed_forward.up = storage.matrix(type, d_ff, d_model);
            found.feed_forward.down = storage.matrix(type, d_model, d_ff);
            found.feed_forward.activation = is_gated ? QUINTET_GELU_TANH : QUINTET_RELU;
            return found;
        };
        encoder = {layer(false), layer(false)};
        decoder = {layer(true)};
        const int32_t vocabulary = type == QUINTET_INT4 ? QUINTET_INT8 : plain;
        const quintet_matrix embedding = storage.matrix(vocabulary, VOCABULARY, d_model);
        model.encoder = {embedding, storage.matrix(plain, 1, d_model), encoder.data(), 2};
        model.decoder = {embedding, storage.matrix(plain, 1, d_model), decoder.data(), 1};
        model.head = storage.matrix(vocabulary, VOCABULARY, d_model);
        model.head_scale = 1.f;
        model.epsilon = 1e-6f;
        model.d_model = d_model;
        model.heads = heads;
        model.d_kv = d_kv;
        model.narrow = type != QUINTET_FLOAT32;
        model.cache_type = plain;
    }
};

std::vector<int64_t> some_tokens(int64_t count) {
    std::vector<int64_t> found(count);
    for (int64_t i = 0; i < count; i++) found[i] = i * 7 % Network::VOCABULARY;
    return found;
}

void step(quintet_session *session, int64_t rows, int64_t n, bool all, int64_t d_model, Floats &log) {
    Storage storage;
    const std::vector<int64_t> tokens = some_tokens(rows * n);
    const int64_t count = rows * (all ? n : 1) * Network::VOCABULARY;
    auto *scores = reinterpret_cast<float *>(storage.bytes(count * 4));
    auto *states = reinterpret_cast<float *>(storage.bytes(rows * n * d_model * 4));
    check(quintet_session_step(session, tokens.data(), n, all, scores, states), "step");
    log.insert(log.end(), scores, scores + count);
    log.insert(log.end(), states, states + rows * n * d_model);
}

// All that is computed on the way: the encoder over sources of odd lengths, then a decoder whose rows change.
Floats go_through(const Network &network) {
    const quintet_model &model = network.model;
    const std::vector<int64_t> starts = {0, 1, 16, 32, 49, 82};
    const int64_t sources = 5, tokens = starts.back();
    const std::vector<int64_t> ids = some_tokens(tokens);
    std::vector<uint8_t> visible(tokens, 1);
    for (int64_t i = 33; i < tokens; i += 3) visible[i] = 0;
    Floats log, states(tokens * model.d_model);
    for (const uint8_t *mask : {static_cast<const uint8_t *>(nullptr), static_cast<const uint8_t *>(visible.data())}) {
        check(quintet_encode(&model, ids.data(), nullptr, mask, starts.data(), sources, states.data()), "encode");
        log.insert(log.end(), states.begin(), states.end());
    }
    quintet_session *session = quintet_session_new(&model, states.data(), starts.data(), sources);
    require(session != nullptr, "session");
    auto select = [&](std::vector<int64_t> rows) {
        check(quintet_session_select(session, rows.data(), static_cast<int64_t>(rows.size())), "select");
    };
    step(session, 5, 1, false, model.d_model, log);
    step(session, 5, 66, true, model.d_model, log);
    select({4, 4, 0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0});
    step(session, 17, 1, false, model.d_model, log);
    check(quintet_session_crop(session, 65), "crop");
    step(session, 17, 2, true, model.d_model, log);
    select({0, 0, 0, 0, 0, 1});
    step(session, 6, 1, false, model.d_model, log);
    select({5});
    step(session, 1, 1, false, model.d_model, log);
    check(quintet_session_crop(session, 0), "crop");
    step(session, 1, 3, false, model.d_model, log);
    quintet_session_free(session);
    return log;
}

void try_networks() {
    for (int32_t type : {QUINTET_FLOAT32, QUINTET_BFLOAT16, QUINTET_INT8, QUINTET_INT4})
        for (bool is_gated : {false, true}) {
            const bool odd = type != QUINTET_INT4;
            // Gated ones have the usual heads, for which attention is compiled apart.
            const int64_t d_kv = is_gated ? 64 : odd ? 5 : 8;
            Network network(type, odd ? 33 : 40, odd ? 3 : 2, d_kv, odd ? 51 : 56, is_gated);
            for (int32_t cache_type : {QUINTET_FLOAT32, QUINTET_BFLOAT16, QUINTET_INT8}) {
                network.model.cache_type = cache_type;
                const bool is_exact = type == QUINTET_FLOAT32 && cache_type == QUINTET_FLOAT32;
                Floats expected;
                for (const std::string &name : instruction_sets()) {
                    check(quintet_set_instruction_set(name.c_str()), "set");
                    const Floats found = go_through(network);
                    if (expected.empty()) expected = found;
                    require(difference(found, expected) < (is_exact ? 1e-3f : 0.5f), name + " differs");
                }
            }
        }
}

// -- threads and processes ------------------------------------------------------------------------------------------

// The product of matrices of these rows, the same ones each time.
Floats multiplied(int64_t rows) {
    const int64_t inner = 600, columns = 700;
    Floats a(rows * inner), b(inner * columns), result(rows * columns);
    for (size_t i = 0; i < a.size(); i++) a[i] = static_cast<float>(i % 7);
    for (size_t i = 0; i < b.size(); i++) b[i] = static_cast<float>(i % 5);
    const quintet_view left{a.data(), rows, inner, inner, 1, QUINTET_FLOAT32};
    const quintet_view right{b.data(), inner, columns, columns, 1, QUINTET_FLOAT32};
    const quintet_view to{result.data(), rows, columns, columns, 1, QUINTET_FLOAT32};
    check(quintet_gemm(&left, &right, &to, 0), "gemm");
    return result;
}

// Callers that change how many threads compute while others are at work.
void try_threads() {
    const Network network(QUINTET_FLOAT32, 33, 3, 64, 51, true);
    check(quintet_set_threads(1), "set_threads");
    const Floats expected = go_through(network);
    std::vector<Floats> products;
    for (int64_t caller = 0; caller < 4; caller++) products.push_back(multiplied(33 + caller));
    std::vector<std::thread> callers;
    for (int64_t caller = 0; caller < 4; caller++)
        callers.emplace_back([&, caller] {
            for (int64_t turn = 0; turn < 3; turn++) {
                check(quintet_set_threads(1 + (caller + turn) % 4), "set_threads");
                require(multiplied(33 + caller) == products[caller], "another product among threads");
                require(difference(go_through(network), expected) < 1e-5f, "another result among threads");
                int64_t wrong = -1;
                float scores[Network::VOCABULARY];
                require(quintet_encode(&network.model, &wrong, nullptr, nullptr, std::vector<int64_t>{0, 1}.data(), 1,
                                       scores) == -1,
                        "a wrong id was taken");
                require(std::strstr(quintet_error(), "got -1") != nullptr, "another thread's error");
            }
        });
    for (std::thread &caller : callers) caller.join();
}

void try_fork() {
    const Network network(QUINTET_FLOAT32, 33, 3, 5, 51, false);
    check(quintet_set_threads(2), "set_threads");
    const Floats expected = go_through(network);
    const pid_t child = fork();
    if (child == 0) _exit(difference(go_through(network), expected) < 1e-5f ? 0 : 1);
    int status = -1;
    require(waitpid(child, &status, 0) == child && status == 0, "a child of fork computes something else");
    require(difference(go_through(network), expected) < 1e-5f, "after fork, another result");
}

}  // namespace

int main(int count, char **arguments) {
    check(quintet_set_threads(2), "set_threads");
    const bool only_threads = count > 1 && std::string(arguments[1]) == "threads";
    if (!only_threads) try_products();
    if (!only_threads) try_gemms();
    try_networks();
    try_threads();
    if (!only_threads) try_fork();  // ThreadSanitizer knows no threads in a child of a process with threads
    std::puts("no complaints");
}

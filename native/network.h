// What the kernels, compiled once for each instruction set, are given and give.
#pragma once

#include "session.h"
#include "threads.h"

namespace quintet {

// Panels whose inner numbers are held at a time: a feed-forward layer has many of them.
constexpr int64_t PANELS_OF_FEED_FORWARD = 64;
// Panels of queries that look at a source's keys together.
constexpr int64_t QUERIES_AT_ONCE = 2;
// A decoder's tokens that look at the same source together: those of beams, or of a prefix.
constexpr int64_t QUERIES_TOGETHER = 4;

// Products for training (gemm.h): how many numbers of a unit are summed, the rows and columns of a block, how many
// numbers of a row are laid out at a time, and the rows and columns that one thread takes at a time.
constexpr int64_t IN_SUM = 32, SIDE = 32, DEPTH = 512, GROUP = 128, BAND = 512;

// Room for one pass of some tokens through a stack. Blocks are (numbers, L) each, one for each panel or token.
struct Space {
    int64_t members;   // the threads that there is room for
    float *states;     // d_model
    float *wide[3];    // the larger of inner and d_ff: queries, keys and values; gate and up
    float *normal;     // d_model: normalised states; one block for each thread
    uint8_t *rounded;  // what products take
    float *scale;
    int32_t *total;
    bool single;  // one block, for which each thread has room of its own, of these sizes
    int64_t rounded_size, scale_size, total_size;
    float *scores;  // one line for each thread
    int64_t scores_size;
    uint8_t *keys, *values;  // the encoder's, as attention takes them
    float *bias;             // the encoder's, one line for each head
    int64_t bias_size;
};

struct Encoding {
    const quintet_model &model;
    Space space;
    const int64_t *ids;
    const float *embeds;
    const uint8_t *visible;
    const int64_t *starts;
    int64_t sources;
    const int64_t *first_panel;  // of each source, and behind the last
    const int64_t *source_of_panel;
    int64_t panels;
    float *states;
};

struct Product {
    const quintet_matrix &w;
    Space space;
    const float *numbers;
    int64_t tokens;
    bool many;
    float *result;
};

struct Gemm {
    const quintet_view &left, &right, &result;
    bool adds;
    uint8_t *right_units;
    uint8_t *left_units;  // for each thread
    float *sums;          // for each thread
};

struct SourceReading {
    const quintet_model &model;
    Space space;
    const float *states;
    const int64_t *starts;
    const int64_t *source_of_panel;
    Sources sources;
};

struct Step {
    const quintet_model &model;
    Space space;
    Sources sources;
    Targets targets;
    const int64_t *source_of_row;
    const int64_t *tokens;  // (rows, n)
    int64_t rows, n;
    int64_t length;  // of the targets before this step
    bool all, one_by_one;
    float *scores, *states;
};

// Each is run by all threads together.
struct Network {
    const char *name;
    // By the type of the weights: up to this many tokens are computed one by one, more in panels of 16.
    int64_t few[QUINTET_INT4 + 1];
    void (*encode)(const Encoding &, Team &, int64_t member);
    void (*read_sources)(const SourceReading &, Team &, int64_t member);
    void (*step)(const Step &, Team &, int64_t member);
    void (*multiply)(const Product &, Team &, int64_t member);
    void (*gemm)(const Gemm &, Team &, int64_t member);
};

const Network &portable_network();
const Network &avx2_network();
const Network &avx512_network();
const Network &amx_network();

}  // namespace quintet

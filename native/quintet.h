/* The engine's whole surface: plain C, so that nothing depends on a compiler's or a framework's binary interface.

   A model is described by pointers to its weights, which stay where they are and belong to the caller; they are read
   anew in each call and must stay valid until the call, or the session, ends. Matrices are (outputs, inputs), row by
   row. Functions that return int return 0, or -1 with quintet_error() saying why. Any thread may call, of one session
   one at a time; calls wait for each other. */
#ifndef QUINTET_H
#define QUINTET_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define QUINTET_VERSION 3

#pragma GCC visibility push(default)

enum quintet_type { QUINTET_FLOAT32, QUINTET_BFLOAT16, QUINTET_INT8, QUINTET_INT4 };
enum quintet_activation { QUINTET_RELU, QUINTET_GELU_TANH, QUINTET_GELU, QUINTET_SILU };

/* Integers times `scale`, float32 or bfloat16 (scale_type): one for each output (group 0), or for each output and group
   of inputs. Of two int4 in a byte, the lower half is the input of even number; 8 stands for zero. Inputs of int4 are a
   multiple of 8. */
typedef struct {
    const void *data; /* NULL: not there */
    const void *scale;
    int64_t outputs, inputs;
    int32_t type, group, scale_type;
} quintet_matrix;

/* Numbers of float32 or bfloat16 as they lie in memory: (i, j) at i * row_stride + j * column_stride, one of them 1. */
typedef struct {
    void *data;
    int64_t rows, columns, row_stride, column_stride;
    int32_t type;
} quintet_view;

typedef struct {
    quintet_matrix norm; /* (1, d_model), before the attention */
    quintet_matrix query, key, value, output;
    const float *bias; /* (heads, 2 * reach + 1) by key - query, beyond reach as at reach; NULL: none */
    int64_t reach;
} quintet_attention;

typedef struct {
    quintet_matrix norm;
    quintet_matrix gate; /* activation(gate) * up; NULL: activation(up) */
    quintet_matrix up, down;
    int32_t activation;
} quintet_feed_forward;

typedef struct {
    quintet_attention own, cross; /* cross: of decoders */
    quintet_feed_forward feed_forward;
} quintet_layer;

typedef struct {
    quintet_matrix embedding; /* (vocabulary, d_model), anything but int4 */
    quintet_matrix norm;      /* after the last layer */
    const quintet_layer *layers;
    int64_t count;
} quintet_stack;

typedef struct {
    quintet_stack encoder, decoder;
    quintet_matrix head; /* (vocabulary, d_model) */
    float head_scale;    /* of the decoder's states before the head: d_model ** -0.5 where it is the embedding */
    float epsilon;
    int64_t d_model, heads, d_kv;
    int32_t narrow;     /* the encoder's keys and values are bfloat16 */
    int32_t cache_type; /* the decoder's: float32, bfloat16, or int8 with a scale for each token and head */
} quintet_model;

typedef struct quintet_session quintet_session;

/* QUINTET_VERSION of the library that was built: structures and functions may differ in another. */
int quintet_version(void);

/* Why the last call of this thread failed. */
const char *quintet_error(void);

/* "portable", "avx2", "avx512" or "amx": the best this processor has, or what the environment variable QUINTET_ISA
   names. NULL: it has not. */
const char *quintet_instruction_set(void);

/* Uses another of those from now on. */
int quintet_set_instruction_set(const char *name);

/* How many threads compute, the caller included. */
int quintet_set_threads(int64_t threads);

/* Computes on the threads of an OpenMP library that the process uses anyway, given its functions GOMP_parallel,
   omp_get_thread_num and omp_get_num_threads: two sets of threads that wait for work would take the processors from
   each other. Without it, on threads of its own. */
void quintet_use_openmp(void *parallel, void *thread_number, void *thread_count);

/* Numbers of tokens (tokens, inputs), rounded as the matrix asks for, times the matrix: (tokens, outputs). For many
   tokens (`many`), or one by one. */
int quintet_multiply(const quintet_matrix *, const float *numbers, int64_t tokens, int32_t many, float *result);

/* result (m, n) = left (m, k) times right (k, n), both rounded to bfloat16, summed in float32; with `adds`, onto what a
   float32 result holds. */
int quintet_gemm(const quintet_view *left, const quintet_view *right, const quintet_view *result, int32_t adds);

/* Sources laid behind each other, source i from starts[i] to starts[i + 1]; ids, or embeddings (tokens, d_model). No
   token looks at those whose `visible` is 0; NULL: all are visible. Writes the normalised states (tokens, d_model). */
int quintet_encode(const quintet_model *, const int64_t *ids, const float *embeds, const uint8_t *visible,
                   const int64_t *starts, int64_t sources, float *states);

/* A decoder at work, with a row for each source, from the encoder's states laid out as above. NULL: see quintet_error.
 */
quintet_session *quintet_session_new(const quintet_model *, const float *states, const int64_t *starts,
                                     int64_t sources);

/* Appends tokens (rows, n); writes the scores (rows, vocabulary) of what follows or, with `all`, (rows, n, vocabulary),
   and the normalised states (rows, n, d_model) unless states is NULL. */
int quintet_session_step(quintet_session *, const int64_t *tokens, int64_t n, int32_t all, float *scores,
                         float *states);

/* Keeps the given rows, in that order; a row may come several times. */
int quintet_session_select(quintet_session *, const int64_t *rows, int64_t count);

/* Takes back all tokens but the first `length`. */
int quintet_session_crop(quintet_session *, int64_t length);

void quintet_session_free(quintet_session *);

#pragma GCC visibility pop

#ifdef __cplusplus
}
#endif

#endif

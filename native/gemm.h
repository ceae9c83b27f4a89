// Products of two matrices in bfloat16, as training needs them: either factor may lie transposed, or be float32.
//
// Numbers are first laid out in units, 16 lines of 16 words of two numbers that follow each other in the sum: what a
// tile of AMX holds. In a unit of the left factor a line is a row, in one of the right factor a column is a lane. The
// right factor is laid out as a whole, by all threads; of the left one each thread lays out some rows at a time, which then
// meet some columns.
#pragma once

#include "network.h"
#include "tiles.h"

namespace quintet::QUINTET_ISA {

constexpr int64_t UNIT = 1024;  // bytes

// -- from matrices to units -----------------------------------------------------------------------------------------

// Two times 16 floats as bfloat16, behind each other.
INLINE void store_halves(Brain *to, const float *first, const float *second) {
#if defined(__AVX512BF16__)
    store(to, (Words)_mm512_cvtne2ps_pbh((__m512)load(second), (__m512)load(first)));
#else
    for (int i = 0; i < LANES; i += WIDTH) {
        store_brain(to + i, load(first + i));
        store_brain(to + LANES + i, load(second + i));
    }
#endif
}

INLINE void load_line(const Brain *from, Words *line) { __builtin_memcpy(line, from, 64); }
INLINE void load_line(const float *from, Words *line) { store_halves((Brain *)line, from, from + LANES); }

INLINE Words pairs(const Brain *first, const Brain *second) { return (Words)load(first) >> 16 | (Words)load(second); }
INLINE Words pairs(const float *first, const float *second) { return bfloat16_pairs(load(first), load(second)); }

struct Unit {
    Words lines[LANES][PARTS];
};

INLINE void transpose(Unit &unit) {
#if defined(__AVX512F__)
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++) a[i] = (__m512i)unit.lines[i][0];
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            a[i + 2 * j] = _mm512_unpacklo_epi64(b[i + j], b[i + j + 2]);
            a[i + 2 * j + 1] = _mm512_unpackhi_epi64(b[i + j], b[i + j + 2]);
        }
    for (int i = 0; i < 16; i += 8)
        for (int j = 0; j < 4; j++) {
            b[i + j] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0x88);
            b[i + j + 4] = _mm512_shuffle_i32x4(a[i + j], a[i + j + 4], 0xdd);
        }
    for (int j = 0; j < 8; j++) {
        unit.lines[j][0] = (Words)_mm512_shuffle_i32x4(b[j], b[j + 8], 0x88);
        unit.lines[j + 8][0] = (Words)_mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd);
    }
#else
    uint32_t *words = (uint32_t *)unit.lines;
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < i; j++) {
            uint32_t word = words[i * LANES + j];
            words[i * LANES + j] = words[j * LANES + i];
            words[j * LANES + i] = word;
        }
#endif
}

// A whole unit, of lines `stride` numbers apart: 16 of 32 numbers to be summed (ALONG), or 32 of 16 rows or columns.
template <bool ALONG, class Number>
INLINE void lay_out_unit(const Number *from, int64_t stride, bool turned, uint8_t *to) {
    Unit unit;
    for (int line = 0; line < LANES; line++)
        if constexpr (ALONG) load_line(from + line * stride, unit.lines[line]);
        else
            for (int part = 0; part < PARTS; part++) {
                const Number *first = from + 2 * line * stride + part * WIDTH;
                unit.lines[line][part] = pairs(first, first + stride);
            }
    if (turned) transpose(unit);
    __builtin_memcpy(to, &unit, UNIT);
}

// One factor of a product: `outer` rows or columns, each of `inner` numbers to be summed.
template <class Number>
struct Factor {
    const Number *data;
    int64_t outer, inner;
    int64_t stride;  // from line to line
    bool along;      // lines are outer ones

    // The unit that begins with row or column `o`, number `i`; what is missing is zero.
    inline __attribute__((always_inline)) void lay_out(int64_t o, int64_t i, bool turned, uint8_t *to) const {
        const Number *from = data + (along ? o * stride + i : i * stride + o);
        const int64_t height = along ? LANES : IN_SUM, width = along ? IN_SUM : LANES;
        const int64_t lines = least(height, along ? outer - o : inner - i);
        const int64_t numbers = most(0, least(width, along ? inner - i : outer - o));
        Number whole[IN_SUM * LANES];
        int64_t apart = stride;
        if (lines < height || numbers < width) {
            __builtin_memset(whole, 0, sizeof whole);
            for (int64_t line = 0; line < lines; line++)
                __builtin_memcpy(whole + line * width, from + line * stride, numbers * sizeof(Number));
            from = whole;
            apart = width;
        }
        if (along) lay_out_unit<true>(from, apart, turned, to);
        else lay_out_unit<false>(from, apart, turned, to);
    }
};

// -- blocks ---------------------------------------------------------------------------------------------------------

// The sums of 32 rows by 32 columns, in four squares of 16; all but the first are added to what is there. Units of the
// lower rows begin left_stride bytes behind those of the upper ones, units of the columns on the right right_stride
// behind those on the left.
INLINE void multiply_block(const uint8_t *left, int64_t left_stride, const uint8_t *right, int64_t right_stride,
                           int64_t units, float *sums, bool is_first) {
#if defined(__AMX_TILE__)
    keep_memory_in_order();
    if (is_first) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, sums, 64);
        _tile_loadd(1, sums + 256, 64);
        _tile_loadd(2, sums + 512, 64);
        _tile_loadd(3, sums + 768, 64);
    }
    for (int64_t at = 0; at < units * UNIT; at += UNIT) {
        // First all loads, then all products: 1.1 times as fast as mixed where a neighbour uses the same core.
        _tile_loadd(4, left + at, 64);
        _tile_loadd(5, left + left_stride + at, 64);
        _tile_loadd(6, right + at, 64);
        _tile_loadd(7, right + right_stride + at, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, sums, 64);
    _tile_stored(1, sums + 256, 64);
    _tile_stored(2, sums + 512, 64);
    _tile_stored(3, sums + 768, 64);
    keep_memory_in_order();
#else
    constexpr int ROWS = WIDTH == 16 ? 8 : 4;
    for (int quarter = 0; quarter < 4; quarter++)
        for (int row = 0; row < LANES; row += ROWS) {
            const uint8_t *rows = left + quarter / 2 * left_stride + row * 64;
            const uint8_t *columns = right + quarter % 2 * right_stride;
            float *out = sums + quarter * 256 + row * LANES;
            Floats found[ROWS][PARTS];
            for (int r = 0; r < ROWS; r++)
                for (int part = 0; part < PARTS; part++)
                    found[r][part] = is_first ? Floats{} : load(out + r * LANES + part * WIDTH);
            for (int64_t at = 0; at < units * UNIT; at += UNIT)
                for (int word = 0; word < LANES; word++)
#pragma GCC unroll 8
                    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
                        for (int part = 0; part < PARTS; part++)
                            found[r][part] = BrainMath::add(found[r][part], broadcast(rows + at + r * 64 + word * 4, 4),
                                                            load_as<Words>(columns + at + word * 64 + part * BYTES));
            for (int r = 0; r < ROWS; r++)
                for (int part = 0; part < PARTS; part++) store(out + r * LANES + part * WIDTH, found[r][part]);
        }
#endif
}

// A line of a block, 32 numbers whose halves lie apart; to bfloat16 nothing is added.
INLINE void put_line(const float *from, Brain *to, bool) { store_halves(to, from, from + 256); }
INLINE void put_line(const float *from, float *to, bool adds) {
    for (int i = 0; i < LANES; i += WIDTH) {
        put(to + i, load(from + i), adds);
        put(to + LANES + i, load(from + 256 + i), adds);
    }
}

template <class Number>
INLINE void put_lines(const float *sums, Number *to, int64_t stride, int64_t rows, int64_t columns, bool adds) {
    for (int64_t row = 0; row < rows; row++) {
        const float *from = sums + row / LANES * 512 + row % LANES * LANES;
        Number *line = to + row * stride, room[SIDE];
        if (columns == SIDE) {
            put_line(from, line, adds);
            continue;
        }
        __builtin_memcpy(room, line, columns * sizeof(Number));
        put_line(from, room, adds);
        __builtin_memcpy(line, room, columns * sizeof(Number));
    }
}

// The same sums, columns as rows.
INLINE void turn_block(const float *sums, float *turned) {
    Unit square;
    for (int quarter = 0; quarter < 4; quarter++) {
        __builtin_memcpy(&square, sums + quarter * 256, sizeof square);
        transpose(square);
        __builtin_memcpy(turned + (quarter % 2 * 2 + quarter / 2) * 256, &square, sizeof square);
    }
}

// A block's sums to where they belong.
INLINE void put_block(const float *sums, const quintet_view &to, int64_t row, int64_t column, int64_t rows,
                      int64_t columns, bool adds) {
    const bool row_by_row = to.column_stride == 1;
    const int64_t stride = row_by_row ? to.row_stride : to.column_stride;
    const int64_t at = row_by_row ? row * stride + column : column * stride + row;
    alignas(64) float turned[SIDE * SIDE];
    if (!row_by_row) {
        turn_block(sums, turned);
        sums = turned;
        const int64_t rows_before = rows;
        rows = columns;
        columns = rows_before;
    }
    if (to.type == QUINTET_FLOAT32) put_lines(sums, (float *)to.data + at, stride, rows, columns, adds);
    else put_lines(sums, (Brain *)to.data + at, stride, rows, columns, adds);
}

// -- the product ----------------------------------------------------------------------------------------------------

template <class Number>
INLINE Factor<Number> factor(const quintet_view &view, bool is_right) {
    const bool row_by_row = view.column_stride == 1;
    return {(const Number *)view.data, is_right ? view.columns : view.rows, is_right ? view.rows : view.columns,
            row_by_row ? view.row_stride : view.column_stride, row_by_row != is_right};
}

// So many units of two times 16 rows or columns from `outer` on; the second's are `apart` units behind the first's.
template <class Number>
INLINE void lay_out_pair(const Factor<Number> &factor, int64_t outer, int64_t first, int64_t count, bool turned,
                         uint8_t *to, int64_t apart) {
    for (int64_t unit = 0; unit < count; unit++)
        for (int64_t half = 0; half < 2; half++)
            factor.lay_out(outer + half * LANES, (first + unit) * IN_SUM, turned, to + (half * apart + unit) * UNIT);
}

// How many rows a thread takes at a time: fewer if there would be too few items to share.
INLINE int64_t rows_at_once(int64_t rows, int64_t bands, int64_t threads) {
    int64_t group = GROUP;
    while (group > SIDE && bands * ((rows + group - 1) / group) < 4 * threads) group /= 2;
    return group;
}

template <class Left, class Right>
static void gemm_of(const Gemm &job, Team &team, int64_t member) {
    const Factor<Left> left = factor<Left>(job.left, false);
    const Factor<Right> right = factor<Right>(job.right, true);
    const int64_t units = most(1, (left.inner + IN_SUM - 1) / IN_SUM);
    share(team, (right.outer + SIDE - 1) / SIDE, [&](int64_t pair) {
        lay_out_pair(right, pair * SIDE, 0, units, right.along, job.right_units + 2 * pair * units * UNIT, units);
    });

    const int64_t bands = (right.outer + BAND - 1) / BAND, group = rows_at_once(left.outer, bands, team.size);
    const int64_t groups = (left.outer + group - 1) / group;
    uint8_t *rows = job.left_units + member * GROUP * DEPTH * 2;
    float *sums = job.sums + member * GROUP * BAND;
    auto multiply = [&](int64_t top, int64_t height, int64_t first, int64_t width, int64_t done, int64_t count) {
        for (int64_t row = 0; row < height; row += SIDE)
            lay_out_pair(left, top + row, done, count, !left.along, rows + row / LANES * count * UNIT, count);
        for (int64_t column = 0; column < width; column += SIDE)
            for (int64_t row = 0; row < height; row += SIDE) {
                const uint8_t *columns = job.right_units + ((first + column) / LANES * units + done) * UNIT;
                // Sums that are complete at once need but one place, which stays in the cache.
                float *block = units == count ? sums : sums + column * GROUP + row * SIDE;
                multiply_block(rows + row / LANES * count * UNIT, count * UNIT, columns, units * UNIT, count, block,
                               done == 0);
                if (done + count == units)
                    put_block(block, job.result, top + row, first + column, least(SIDE, height - row),
                              least(SIDE, width - column), job.adds);
            }
    };
    share(team, bands * groups, [&](int64_t item) {
        const int64_t top = item % groups * group, first = item / groups * BAND, deep = DEPTH / IN_SUM;
        for (int64_t done = 0; done < units; done += deep)
            multiply(top, least(group, left.outer - top), first, least(BAND, right.outer - first), done,
                     least(deep, units - done));
    });
}

template <class Left>
static void gemm_by(const Gemm &job, Team &team, int64_t member) {
    if (job.right.type == QUINTET_FLOAT32) gemm_of<Left, float>(job, team, member);
    else gemm_of<Left, Brain>(job, team, member);
}

static void gemm(const Gemm &job, Team &team, int64_t member) {
    Tiles tiles;
    if (job.left.type == QUINTET_FLOAT32) gemm_by<float>(job, team, member);
    else gemm_by<Brain>(job, team, member);
}

}  // namespace quintet::QUINTET_ISA

/* The kernels in machine code: to the bit those of reference.py, which says what each of them computes.
 *
 * This file reads itself once for each level of the processor (the table of builds, below): AVX-512, AVX2, and plain C, which
 * is right everywhere. The kernels are written once, in terms of a few operations on a vector of W numbers. Python finds
 * NAME_LEVEL by its name, through ctypes, and best_level() says which level this processor has.
 *
 * A kernel works on a block of n coordinates, in chunks of 64: their bits are one 64-bit word. What is left over at the end
 * of a block is copied to a chunk of zeros. `edges`, (q + 1), cuts the block into q runs that have a value each.
 *
 * No operation may be reassociated or fused, so this is compiled with -ffp-contract=off and without -ffast-math.
 */
#ifndef LEVEL

#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "bits and random numbers are laid out for little-endian processors; numpy computes on others"
#endif

#define CHUNK 64
#define PIECE 4096                  /* coordinates that are rotated together */
#define LANES 1024                  /* partial sums of a long run */
#define PAIRWISE 128                /* numpy's pairwise summation adds up this many in eight partial sums */
#define GAMMA 0x9E3779B97F4A7C15u
#define MIX_1 0xBF58476D1CE4E5B9u
#define MIX_2 0x94D049BB133111EBu

#define JOINED(name, level) name##_##level
#define JOIN(name, level) JOINED(name, level)
#define NAME(name) JOIN(name, LEVEL)
#define EXPORT __attribute__((visibility("default"))) TARGET void
#define INLINE static inline __attribute__((always_inline)) TARGET

enum { SUM_ABS, SUM_POSITIVE, SUM_SQUARE };
enum { ONE, FEW, MANY, ANY };
#define MOST_OF_FEW (W < 8 ? W : 8)

#define W (VECTOR_BYTES / 4)        /* float32 in a vector */
#define PIECES (CHUNK / W)          /* vectors in a chunk */

/* What is not exported is static, and needs a name of its own for each level too. */
#define floats NAME(floats)
#define ints NAME(ints)
#define shorts NAME(shorts)
#define words NAME(words)
#define bytes NAME(bytes)
#define eight NAME(eight)
#define eight_wide NAME(eight_wide)
#define runs NAME(runs)
#define stream NAME(stream)
#define load NAME(load)
#define store NAME(store)
#define splat NAME(splat)
#define count_up NAME(count_up)
#define greater NAME(greater)
#define not_negative NAME(not_negative)
#define as_floats NAME(as_floats)
#define magnitude NAME(magnitude)
#define larger NAME(larger)
#define plus_minus NAME(plus_minus)
#define whole NAME(whole)
#define destination NAME(destination)
#define finish NAME(finish)
#define write_bits NAME(write_bits)
#define reversed NAME(reversed)
#define reverse_bits NAME(reverse_bits)
#define read_bits NAME(read_bits)
#define find_runs NAME(find_runs)
#define load_few NAME(load_few)
#define spread_few NAME(spread_few)
#define gather NAME(gather)
#define at_any NAME(at_any)
#define values_of NAME(values_of)
#define open_stream NAME(open_stream)
#define draw NAME(draw)
#define look_up NAME(look_up)
#define pack_chunk NAME(pack_chunk)
#define term NAME(term)
#define sum_runs NAME(sum_runs)
#define lane_sum NAME(lane_sum)
#define pairwise NAME(pairwise)
#define pairwise_wide NAME(pairwise_wide)
#define decode_chunk NAME(decode_chunk)
#define reached NAME(reached)
#define hadamard NAME(hadamard)
#define flip NAME(flip)
#define unit_of NAME(unit_of)
#define levels_of NAME(levels_of)
#define levels_at NAME(levels_at)
#define count_up_from NAME(count_up_from)
#define add_three NAME(add_three)
#define bits_at NAME(bits_at)

/* The table of builds. */
#ifdef __x86_64__
#define AVX512
#define LEVEL avx512
#define VECTOR_BYTES 64
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#include "native.c"
#undef AVX512
#undef LEVEL
#undef VECTOR_BYTES
#undef TARGET
#define AVX2
#define LEVEL avx2
#define VECTOR_BYTES 32
#define TARGET __attribute__((target("avx2")))
#include "native.c"
#undef AVX2
#undef LEVEL
#undef VECTOR_BYTES
#undef TARGET
#endif
#define LEVEL plain
#define VECTOR_BYTES 16
#define TARGET
#include "native.c"

/* Return the CRC-32 of the file that this was built of, as setup.py gave it. */
__attribute__((visibility("default"))) uint32_t source_crc(void)
{
#ifdef SOURCE_CRC
    return SOURCE_CRC;
#else
    return 0;
#endif
}

__attribute__((visibility("default"))) const char *best_level(void)
{
#ifdef __x86_64__
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq")
        && __builtin_cpu_supports("avx512vl"))
        return "avx512";
    if (__builtin_cpu_supports("avx2"))
        return "avx2";
#endif
    return "plain";
}

#else /* the kernels, for one level */

typedef float floats __attribute__((vector_size(VECTOR_BYTES)));
typedef int32_t ints __attribute__((vector_size(VECTOR_BYTES)));
typedef int16_t shorts __attribute__((vector_size(VECTOR_BYTES)));
typedef uint64_t words __attribute__((vector_size(VECTOR_BYTES)));
typedef int8_t bytes __attribute__((vector_size(CHUNK)));   /* one for each coordinate of a chunk */
typedef float eight __attribute__((vector_size(32)));
typedef double eight_wide __attribute__((vector_size(64)));

/* ---- operations on one vector ---- */

INLINE floats load(const float *from) { floats v; memcpy(&v, from, sizeof v); return v; }
INLINE void store(float *to, floats v) { memcpy(to, &v, sizeof v); }
INLINE floats splat(float x) { return x - (floats){0}; }

/* Return 0, 1, ..., W - 1. */
INLINE ints count_up(void)
{
    ints v;
    for (int i = 0; i < W; i++) v[i] = i;
    return v;
}

/* Return a bit for each coordinate, the first one lowest: whether a > b. */
INLINE uint64_t greater(floats a, floats b)
{
#if defined(AVX512)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_GT_OQ);
#elif defined(AVX2)
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_GT_OQ));
#else
    uint64_t bits = 0;
    for (int i = 0; i < W; i++) bits |= (uint64_t)(a[i] > b[i]) << i;
    return bits;
#endif
}

/* Likewise: whether a >= 0. */
INLINE uint64_t not_negative(floats a)
{
#if defined(AVX512)
    return _mm512_cmp_ps_mask((__m512)a, _mm512_setzero_ps(), _CMP_GE_OQ);
#elif defined(AVX2)
    return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps((__m256)a, _mm256_setzero_ps(), _CMP_GE_OQ));
#else
    uint64_t bits = 0;
    for (int i = 0; i < W; i++) bits |= (uint64_t)(a[i] >= 0.0f) << i;
    return bits;
#endif
}

/* Return W 16-bit integers as float32. */
INLINE floats as_floats(const int16_t *from)
{
#if defined(AVX512)
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from)));
#elif defined(AVX2)
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)from)));
#else
    floats v;
    for (int i = 0; i < W; i++) v[i] = from[i];
    return v;
#endif
}

INLINE floats magnitude(floats v) { return (floats)((ints)v & 0x7FFFFFFF); }

/* Return a where a > b, else b. */
INLINE floats larger(floats a, floats b)
{
#if defined(AVX512)
    return (floats)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(AVX2)
    return (floats)_mm256_max_ps((__m256)a, (__m256)b);
#else
    ints above = a > b;
    return (floats)(((ints)a & above) | ((ints)b & ~above));
#endif
}

/* Return +value where a bit is 1 and -value where it is 0, for piece p of the 64 bits at `bits`. */
INLINE floats plus_minus(floats value, const uint8_t *bits, int p)
{
    /* Each lane shifts its bit up to the sign's place. The first coordinate is the highest bit of the first byte. */
#if defined(AVX512)
    int32_t four;
    memcpy(&four, bits + p / 2 * 4, sizeof four);
    ints place = count_up() + 16 * (p % 2);
    __m512i top = _mm512_sllv_epi32(_mm512_set1_epi32(four), (__m512i)(24 - (place & 24) + (place & 7)));
    return (floats)_mm512_ternarylogic_epi32((__m512i)value, top, _mm512_set1_epi32(INT32_MIN), 0xD2); /* a ^ (~b & c) */
#elif defined(AVX2)
    int32_t four;
    memcpy(&four, bits + p / 4 * 4, sizeof four);
    __m256i top = _mm256_sllv_epi32(_mm256_set1_epi32(four), (__m256i)(count_up() + (24 - 8 * (p % 4))));
    return (floats)_mm256_xor_ps((__m256)value, _mm256_andnot_ps((__m256)top, _mm256_set1_ps(-0.0f)));
#else
    floats v;
    for (int i = 0; i < W; i++) {
        int j = p * W + i;
        v[i] = bits[j / 8] >> (7 - j % 8) & 1 ? value[i] : -value[i];
    }
    return v;
#endif
}

/* ---- chunks ---- */

/* Return the chunk at `from`, of which `left` coordinates are there; a short one is copied to `rest` and filled with zeros. */
INLINE const float *whole(const float *from, int64_t left, float *rest)
{
    if (left >= CHUNK) return from;
    memset(rest, 0, CHUNK * sizeof *rest);
    memcpy(rest, from, left * sizeof *rest);
    return rest;
}

/* Return where a chunk's results go, and finish() puts those of a short one in their place. */
INLINE float *destination(float *to, int64_t left, float *rest) { return left >= CHUNK ? to : rest; }
INLINE void finish(float *to, int64_t left, const float *rest)
{
    if (left < CHUNK) memcpy(to, rest, left * sizeof *rest);
}

/* Write a chunk's bits, those of each piece in a mask, the first coordinate lowest. reverse_bits() then puts a block in
 * packbits order: the first coordinate highest in each byte. */
INLINE void write_bits(uint8_t *out, const uint64_t *masks, int64_t left)
{
    if (left >= CHUNK && W >= 8) {
        for (int p = 0; p < PIECES; p++) memcpy(out + p * (W / 8), &masks[p], W / 8);
        return;
    }
    uint64_t word = 0;
    for (int p = 0; p < PIECES; p++) word |= masks[p] << p * W;
    if (left < CHUNK) word &= ((uint64_t)1 << left) - 1;
    memcpy(out, &word, left < CHUNK ? (left + 7) / 8 : 8);
}

INLINE uint64_t reversed(uint64_t word)
{
    word = (word >> 1 & 0x5555555555555555u) | (word & 0x5555555555555555u) << 1;
    word = (word >> 2 & 0x3333333333333333u) | (word & 0x3333333333333333u) << 2;
    return (word >> 4 & 0x0F0F0F0F0F0F0F0Fu) | (word & 0x0F0F0F0F0F0F0F0Fu) << 4;
}

/* Mirror the bits of each of n bytes. */
INLINE void reverse_bits(uint8_t *out, int64_t n)
{
    int64_t i = 0;
#if defined(AVX512) || defined(AVX2)
    /* Half a byte at a time: a shuffle looks all of them up. */
    __m128i nibbles = _mm_setr_epi8(0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15);
    __m256i table = _mm256_broadcastsi128_si256(nibbles), low = _mm256_set1_epi8(15);
    for (; i + 32 <= n; i += 32) {
        __m256i v = _mm256_loadu_si256((const __m256i *)(out + i));
        __m256i first = _mm256_shuffle_epi8(table, _mm256_and_si256(v, low));
        __m256i second = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
        _mm256_storeu_si256((__m256i *)(out + i), _mm256_or_si256(_mm256_slli_epi16(first, 4), second));
    }
#endif
    for (uint64_t word; i + 8 <= n; i += 8) {
        memcpy(&word, out + i, 8);
        word = reversed(word);
        memcpy(out + i, &word, 8);
    }
    for (; i < n; i++) out[i] = (uint8_t)reversed(out[i]);
}

/* Return a chunk's 8 bytes of bits; those of a short one are copied to `rest`. */
INLINE const uint8_t *read_bits(const uint8_t *bits, int64_t left, uint64_t *rest)
{
    if (left >= CHUNK) return bits;
    *rest = 0;
    memcpy(rest, bits, (left + 7) / 8);
    return (const uint8_t *)rest;
}

/* ---- runs: which coordinates of a chunk have which value ---- */

typedef struct {
    int64_t first;           /* the run of the chunk's first coordinate */
    int kind;                /* whether the chunk meets ONE run, a FEW, or MANY (or ANY number) */
    int count;               /* how many it meets, empty ones included */
    ints index[PIECES];      /* for each coordinate, if there is more than one: its run, from the first one on */
} runs;

/* Find the runs of the chunk at coordinate c; chunks must come in ascending order. */
INLINE void find_runs(runs *r, const int64_t *edges, int64_t q, int64_t c, int64_t n)
{
    int64_t run = r->first, end = c + CHUNK < n ? c + CHUNK : n;
    while (run + 1 < q && edges[run + 1] <= c) run++;
    r->first = run;
    r->kind = ONE;
    if (run + 1 >= q || edges[run + 1] >= end) return;
    bytes place, index = {0};
    for (int i = 0; i < CHUNK; i++) place[i] = (int8_t)i;
    for (run++; run < q && edges[run] < end; run++) index -= place >= (int8_t)(edges[run] - c);
    r->count = (int)(run - r->first);
    r->kind = r->count <= MOST_OF_FEW ? FEW : r->count <= INT8_MAX ? MANY : ANY;
    for (int p = 0; p < PIECES; p++)
        for (int i = 0; i < W; i++) r->index[p][i] = index[p * W + i];
    if (r->kind == ANY)  /* so many empty runs that a byte can't count them */
        for (int i = 0; i < CHUNK; i++) {
            for (run = r->first; run + 1 < q && edges[run + 1] <= c + i;) run++;
            r->index[i / W][i % W] = (int32_t)(run - r->first);
        }
}

/* Values may lie at any address: in a message they follow the bits. */
INLINE float at_any(const float *values, int64_t i)
{
    float value;
    memcpy(&value, values + i, sizeof value);
    return value;
}

/* Return the first `count` of these values, and any of them for each lane. */
INLINE floats load_few(const float *values, int count)
{
#if defined(AVX512)
    return (floats)_mm512_castps256_ps512(_mm256_maskz_loadu_ps((__mmask8)((1u << count) - 1), values));
#elif defined(AVX2)
    return (floats)_mm256_maskload_ps(values, (__m256i)(count_up() < count));
#else
    floats v = {0};
    for (int i = 0; i < count; i++) v[i] = at_any(values, i);
    return v;
#endif
}
INLINE floats spread_few(floats few, ints index)
{
#if defined(AVX512)
    return (floats)_mm512_permutexvar_ps((__m512i)index, (__m512)few);
#elif defined(AVX2)
    return (floats)_mm256_permutevar8x32_ps((__m256)few, (__m256i)index);
#else
    floats v;
    for (int i = 0; i < W; i++) v[i] = few[index[i]];
    return v;
#endif
}
INLINE floats gather(const float *values, ints index)
{
    floats v;
    for (int i = 0; i < W; i++) v[i] = at_any(values, index[i]);
    return v;
}

/* Write the value of each coordinate of the chunk, times `weight`; `kind` is that of r, where the compiler should know it. */
INLINE void values_of(floats *v, const float *values, float weight, const runs *r, int kind)
{
    values += r->first;
    if (kind == ONE) {
        floats one = splat(weight * at_any(values, 0));
        for (int p = 0; p < PIECES; p++) v[p] = one;
    } else if (kind == FEW) {
        floats few = weight * load_few(values, r->count);
        for (int p = 0; p < PIECES; p++) v[p] = spread_few(few, r->index[p]);
    } else
        for (int p = 0; p < PIECES; p++) v[p] = weight * gather(values, r->index[p]);
}

/* ---- random numbers: see random.py ---- */

typedef struct {
    words counter;
    uint64_t key;
    int16_t shift;
} stream;

INLINE stream open_stream(uint64_t first, const uint64_t *key, int16_t shift)
{
    words steps = {0};
    for (int i = 0; i < W / 2; i++) steps[i] = i * GAMMA;
    return (stream){.counter = steps + (first * GAMMA + key[0]), .key = key[1], .shift = shift};
}

/* Write the next 64 numbers. */
INLINE void draw(stream *s, int16_t *r)
{
    for (int i = 0; i < CHUNK / (2 * W); i++) {
        words z = s->counter;
        z = (z ^ z >> 30) * MIX_1;
        z ^= s->key;
        z = (z ^ z >> 27) * MIX_2;
        z ^= z >> 31;
        shorts drawn = (shorts)z + s->shift;
        memcpy(r + 2 * W * i, &drawn, sizeof drawn);
        s->counter += (uint64_t)(W / 2) * GAMMA;
    }
}

EXPORT NAME(random_shorts)(const uint64_t *key, uint64_t first, int16_t shift, int16_t *out, int64_t n)
{
    stream s = open_stream(first, key, shift);
    for (int64_t c = 0; c < n; c += CHUNK) {
        int16_t r[CHUNK];
        draw(&s, r);
        memcpy(out + c, r, (n - c < CHUNK ? n - c : CHUNK) * sizeof *r);
    }
}

/* ---- encoding ---- */

INLINE void pack_chunk(const float *x, int64_t left, uint8_t *out)
{
    float rest[CHUNK];
    const float *part = whole(x, left, rest);
    uint64_t masks[PIECES];
    for (int p = 0; p < PIECES; p++) masks[p] = not_negative(load(part + p * W));
    write_bits(out, masks, left);
}

EXPORT NAME(pack)(const float *x, int64_t n, uint8_t *out)
{
    int64_t c = 0;
    for (; c + CHUNK <= n; c += CHUNK) pack_chunk(x + c, CHUNK, out + c / 8);
    if (c < n) pack_chunk(x + c, n - c, out + c / 8);
    reverse_bits(out, (n + 7) / 8);
}

EXPORT NAME(stochastic)(const float *x, int64_t n, const float *units, const int64_t *edges, int64_t q,
                        const uint64_t *key, uint64_t first, int16_t shift, float delta, uint8_t *out)
{
    stream s = open_stream(first, key, shift);
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        float rest[CHUNK];
        int16_t r[CHUNK];
        const float *part = whole(x + c, n - c, rest);
        find_runs(&at, edges, q, c, n);
        draw(&s, r);
        floats unit[PIECES];
        values_of(unit, units, 1.0f, &at, at.kind);
        uint64_t masks[PIECES];
        for (int p = 0; p < PIECES; p++)
            masks[p] = greater(load(part + p * W) * unit[p] - delta, as_floats(r + p * W));
        write_bits(out + c / 8, masks, n - c);
    }
    reverse_bits(out, (n + 7) / 8);
}

/* Write table[r] for the next 64 numbers. */
INLINE void look_up(stream *s, const float *table, float *found)
{
    int16_t r[CHUNK];
    draw(s, r);
    for (int i = 0; i < CHUNK; i++) found[i] = table[(uint16_t)r[i]];
}

EXPORT NAME(exceeds)(const float *x, int64_t n, const float *units, const int64_t *edges, int64_t q, const float *table,
                     const uint64_t *key, uint64_t first, int16_t shift, uint8_t *out)
{
    stream s = open_stream(first, key, shift);
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        float rest[CHUNK], noise[CHUNK];
        const float *part = whole(x + c, n - c, rest);
        find_runs(&at, edges, q, c, n);
        look_up(&s, table, noise);
        floats unit[PIECES];
        values_of(unit, units, 1.0f, &at, at.kind);
        uint64_t masks[PIECES];
        for (int p = 0; p < PIECES; p++) masks[p] = greater(load(part + p * W) * unit[p], load(noise + p * W));
        write_bits(out + c / 8, masks, n - c);
    }
    reverse_bits(out, (n + 7) / 8);
}

/* ---- sums of runs: see sums.py ---- */

INLINE float term(int kind, float x)
{
    return kind == SUM_ABS ? __builtin_fabsf(x) : kind == SUM_SQUARE ? x * x : x > 0.0f ? x : 0.0f;
}

/* numpy's pairwise sum of n float32, in `real`. */
#define PAIRWISE_SUM(name, real)                                                                                      \
    TARGET static real name(int kind, const float *x, int64_t n)                                                \
    {                                                                                                                 \
        if (n > PAIRWISE) {                                                                                           \
            int64_t half = n / 2 - n / 2 % 8;                                                                         \
            return name(kind, x, half) + name(kind, x + half, n - half);                                  \
        }                                                                                                             \
        if (n < 8) {                                                                                                  \
            real sum = 0;                                                                                             \
            for (int64_t i = 0; i < n; i++) sum += (real)term(kind, x[i]);                                            \
            return sum;                                                                                               \
        }                                                                                                             \
        real s[8];                                                                                                    \
        int64_t i = 8;                                                                                                \
        for (int j = 0; j < 8; j++) s[j] = (real)term(kind, x[j]);                                                    \
        for (; i < n - n % 8; i += 8)                                                                                 \
            for (int j = 0; j < 8; j++) s[j] += (real)term(kind, x[i + j]);                                           \
        real sum = ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));                                 \
        for (; i < n; i++) sum += (real)term(kind, x[i]);                                                             \
        return sum;                                                                                                   \
    }
PAIRWISE_SUM(pairwise, float)
PAIRWISE_SUM(pairwise_wide, double)

INLINE double lane_sum(int kind, const float *x, int64_t n)
{
    int64_t rows = n / LANES;
    double total = pairwise_wide(kind, x + rows * LANES, n - rows * LANES);
    if (!rows) return total;
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = term(kind, x[i]);
    for (int64_t row = 1; row < rows; row++)
        for (int i = 0; i < LANES; i++) lanes[i] += term(kind, x[row * LANES + i]);
    /* The lanes are not negative: their magnitude is what they are. */
    return total + pairwise_wide(SUM_ABS, lanes, LANES);
}

INLINE void sum_runs(int kind, const float *x, const int64_t *edges, int64_t q, int64_t few, double *out)
{
    for (int64_t run = 0; run < q; run++) {
        const float *part = x + edges[run];
        int64_t n = edges[run + 1] - edges[run];
        if (q <= few) out[run] = lane_sum(kind, part, n);
        else out[run] = n == 0 ? 0.0 : n == 1 ? term(kind, *part) : term(kind, *part) + pairwise(kind, part + 1, n - 1);
    }
}
EXPORT NAME(sums)(int kind, const float *x, const int64_t *edges, int64_t q, int64_t few, double *out)
{
    if (kind == SUM_ABS) sum_runs(SUM_ABS, x, edges, q, few, out);
    else if (kind == SUM_SQUARE) sum_runs(SUM_SQUARE, x, edges, q, few, out);
    else sum_runs(SUM_POSITIVE, x, edges, q, few, out);
}

EXPORT NAME(maxima)(const float *x, const int64_t *edges, int64_t q, float *out)
{
    for (int64_t run = 0; run < q; run++) {
        int64_t i = edges[run], stop = edges[run + 1];
        float found = 0.0f;
        if (stop - i >= W) {
            floats most[4] = {{0}};
            for (; i + 4 * W <= stop; i += 4 * W)
                for (int k = 0; k < 4; k++) most[k] = larger(magnitude(load(x + i + k * W)), most[k]);
            for (; i + W <= stop; i += W) most[0] = larger(magnitude(load(x + i)), most[0]);
            most[1] = larger(magnitude(load(x + stop - W)), most[1]);  /* what is left, and some of it again */
            float lanes[W];
            store(lanes, larger(larger(most[0], most[1]), larger(most[2], most[3])));
            for (int half = W / 2; half; half /= 2)
                for (int j = 0; j < half; j++) lanes[j] = lanes[j] > lanes[j + half] ? lanes[j] : lanes[j + half];
            found = lanes[0];
            i = stop;
        }
        for (; i < stop; i++) found = __builtin_fabsf(x[i]) > found ? __builtin_fabsf(x[i]) : found;
        out[run] = found;
    }
}

EXPORT NAME(counts_positive)(const float *x, const int64_t *edges, int64_t q, int64_t *out)
{
    for (int64_t run = 0; run < q; run++) {
        int64_t i = edges[run], stop = edges[run + 1], count = 0;
        for (; i + W <= stop; i += W) count += __builtin_popcountll(not_negative(load(x + i)));
        for (; i < stop; i++) count += x[i] >= 0.0f;
        out[run] = count;
    }
}

EXPORT NAME(count_beyond)(const float *x, int64_t n, const float *values, const int64_t *edges, int64_t q, int64_t *out)
{
    runs at = {0};
    *out = 0;
    for (int64_t c = 0; c < n; c += CHUNK) {
        float rest[CHUNK];
        const float *part = whole(x + c, n - c, rest);
        find_runs(&at, edges, q, c, n);
        floats value[PIECES];
        values_of(value, values, 1.0f, &at, at.kind);
        for (int p = 0; p < PIECES; p++) {
            uint64_t bits = greater(magnitude(load(part + p * W)), value[p]);
            /* A short chunk's zeros are beyond a negative value. */
            int64_t left = n - c - p * W;
            if (left < W) bits &= left > 0 ? ((uint64_t)1 << left) - 1 : 0;
            *out += __builtin_popcountll(bits);
        }
    }
}

/* ---- decoding ---- */

EXPORT NAME(fold)(const uint8_t *bits, const float *values, const int64_t *edges, int64_t q, const float *source, float *into,
                  int64_t n)
{
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        float before[CHUNK], after[CHUNK];
        uint64_t few;
        const float *from = whole(source + c, n - c, before);
        float *to = destination(into + c, n - c, after);
        const uint8_t *word = read_bits(bits + c / 8, n - c, &few);
        find_runs(&at, edges, q, c, n);
        floats value[PIECES];
        values_of(value, values, 1.0f, &at, at.kind);
        for (int p = 0; p < PIECES; p++) store(to + p * W, load(from + p * W) + plus_minus(value[p], word, p));
        finish(into + c, n - c, after);
    }
}

/* The sum of m rows over one chunk: eights from +0 in their order, then the eights in theirs. */
INLINE void decode_chunk(const uint8_t *const *rows, int64_t byte, int64_t m, const float *const *values,
                         const float *weights, int64_t group, const runs *at, int kind, float *into, int64_t left)
{
    floats total[PIECES] = {{0}};
    for (int64_t row = 0; row < m;) {
        floats partial[PIECES] = {{0}};
        int64_t limit = row + 8 < m ? row + 8 : m;
        for (; row < limit; row++) {
            uint64_t few;
            const uint8_t *word = read_bits(rows[row] + byte, left, &few);
            floats value[PIECES];
            values_of(value, values[row] + group, weights[row], at, kind);
            for (int p = 0; p < PIECES; p++) partial[p] += plus_minus(value[p], word, p);
        }
        for (int p = 0; p < PIECES; p++) total[p] += partial[p];
    }
    for (int p = 0; p < PIECES; p++) store(into + p * W, total[p]);
}

/* The values of row i are weights[i] times values[i], the block's from `group` on. */
EXPORT NAME(decode)(const uint8_t *const *rows, int64_t byte, int64_t m, const float *const *values, const float *weights,
                    int64_t group, const int64_t *edges, int64_t q, float *into, int64_t n)
{
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        find_runs(&at, edges, q, c, n);
        float after[CHUNK];
        int64_t here = byte + c / 8;
        if (n - c < CHUNK) decode_chunk(rows, here, m, values, weights, group, &at, at.kind, after, n - c);
        else if (at.kind == ONE) decode_chunk(rows, here, m, values, weights, group, &at, ONE, into + c, CHUNK);
        else if (at.kind == FEW) decode_chunk(rows, here, m, values, weights, group, &at, FEW, into + c, CHUNK);
        else decode_chunk(rows, here, m, values, weights, group, &at, MANY, into + c, CHUNK);
        finish(into + c, n - c, after);
    }
}

EXPORT NAME(add_values)(const float *values, const int64_t *edges, int64_t q, float *into)
{
    for (int64_t run = 0; run < q; run++)
        for (int64_t i = edges[run]; i < edges[run + 1]; i++) into[i] += values[run];
}

/* (into + offset) value */
EXPORT NAME(scale)(float offset, const float *values, const int64_t *edges, int64_t q, float *into)
{
    for (int64_t run = 0; run < q; run++)
        for (int64_t i = edges[run]; i < edges[run + 1]; i++) into[i] = (into[i] + offset) * values[run];
}

/* ---- subtractive dither ---- */

/* m messages: keys, (m, 2); shifts, (m,); units and offsets, (m, q). */
EXPORT NAME(add_ramps)(int64_t m, const uint64_t *keys, const int16_t *shifts, uint64_t first, const float *units,
                       int64_t unit_stride, const float *offsets, int64_t offset_stride, const int64_t *edges, int64_t q,
                       float *into, int64_t n)
{
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        float before[CHUNK], after[CHUNK];
        const float *from = whole(into + c, n - c, before);
        float *to = destination(into + c, n - c, after);
        floats sum[PIECES];
        for (int p = 0; p < PIECES; p++) sum[p] = load(from + p * W);
        find_runs(&at, edges, q, c, n);
        for (int64_t i = 0; i < m; i++) {
            int16_t r[CHUNK];
            stream s = open_stream(first + c / 4, keys + 2 * i, shifts[i]);
            draw(&s, r);
            floats unit[PIECES], offset[PIECES];
            values_of(unit, units + i * unit_stride, 1.0f, &at, at.kind);
            values_of(offset, offsets + i * offset_stride, 1.0f, &at, at.kind);
            for (int p = 0; p < PIECES; p++) sum[p] += as_floats(r + p * W) * unit[p] + offset[p];
        }
        for (int p = 0; p < PIECES; p++) store(to + p * W, sum[p]);
        finish(into + c, n - c, after);
    }
}

/* Likewise for noise that is looked up. */
EXPORT NAME(add_noises)(int64_t m, const uint64_t *keys, const int16_t *shifts, uint64_t first, const float *table,
                        const float *units, int64_t stride, const int64_t *edges, int64_t q, float *into, int64_t n)
{
    runs at = {0};
    for (int64_t c = 0; c < n; c += CHUNK) {
        float before[CHUNK], after[CHUNK];
        const float *from = whole(into + c, n - c, before);
        float *to = destination(into + c, n - c, after);
        floats sum[PIECES];
        for (int p = 0; p < PIECES; p++) sum[p] = load(from + p * W);
        find_runs(&at, edges, q, c, n);
        for (int64_t i = 0; i < m; i++) {
            float noise[CHUNK];
            stream s = open_stream(first + c / 4, keys + 2 * i, shifts[i]);
            look_up(&s, table, noise);
            floats unit[PIECES];
            values_of(unit, units + i * stride, 1.0f, &at, at.kind);
            for (int p = 0; p < PIECES; p++) sum[p] += load(noise + p * W) * unit[p];
        }
        for (int p = 0; p < PIECES; p++) store(to + p * W, sum[p]);
        finish(into + c, n - c, after);
    }
}

/* Write how many of m numbers each r is above: by comparing, or where `table` is given by looking it up. A number is there
 * twice, in both halves of an int32: processors load and spread 32 bits at once. */
INLINE void reached(const int16_t *r, const int32_t *below, int64_t m, const uint16_t *table, uint16_t *count)
{
    if (table) {
        for (int i = 0; i < CHUNK; i++) count[i] = table[(uint16_t)r[i]];
        return;
    }
    for (int i = 0; i < CHUNK / (2 * W); i++) {
        shorts drawn, found = {0};
        memcpy(&drawn, r + 2 * W * i, sizeof drawn);
        for (int64_t j = 0; j < m; j++) {
#if defined(AVX512)
            __mmask32 above = _mm512_cmpgt_epi16_mask((__m512i)drawn, _mm512_set1_epi32(below[j]));
            found = (shorts)_mm512_mask_sub_epi16((__m512i)found, above, (__m512i)found, _mm512_set1_epi16(-1));
#else
            found -= drawn > (shorts)((ints){0} + below[j]);
#endif
        }
        memcpy(count + 2 * W * i, &found, sizeof found);
    }
}

/* Write the level for each number of messages that have wrapped, (m + 1, 8), for eight runs from `group` on (`count` of them
 * are there), and their slopes, (8,). */
INLINE eight_wide unit_of(const float *values, float weight, int64_t count)
{
    eight level = {0};
    if (count >= 8) memcpy(&level, values, sizeof level);
    else memcpy(&level, values, count * sizeof(float));
    return __builtin_convertvector(weight * level, eight_wide) / 32768.0;
}
INLINE void levels_of(float *rows, float *slopes, int64_t m, const int64_t *order, const int64_t *shifts,
                      const float *const *values, const float *weights, int64_t group, int64_t count, double delta)
{
    eight_wide slope = {0}, level = {0}, wrapped = {0};
    for (int64_t j = 0; j < m; j++) {
        eight_wide unit = unit_of(values[order[j]] + group, weights[order[j]], count);
        slope += unit;
        level += (double)shifts[j] * unit;
    }
    eight rounded = __builtin_convertvector(slope, eight);
    memcpy(slopes, &rounded, sizeof rounded);
    rounded = __builtin_convertvector(level + delta * slope, eight);
    memcpy(rows, &rounded, sizeof rounded);
    for (int64_t j = 0; j < m; j++) {
        wrapped += unit_of(values[order[j]] + group, weights[order[j]], count);
        rounded = __builtin_convertvector((level - 65536.0 * wrapped) + delta * slope, eight);
        memcpy(rows + 8 * (j + 1), &rounded, sizeof rounded);
    }
}

/* Write the level at each count of a chunk. */
INLINE void levels_at(float *level, const float *row, int64_t m, const uint16_t *count)
{
#if defined(AVX512)
    if (m < 64) {  /* four registers hold all levels; what follows them in the scratch is not looked at */
        __m512 a = _mm512_loadu_ps(row), b = _mm512_loadu_ps(row + 16);
        __m512 c = _mm512_loadu_ps(row + 32), d = _mm512_loadu_ps(row + 48);
        for (int p = 0; p < PIECES; p++) {
            __m512i index = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(count + p * W)));
            __m512 found = _mm512_permutex2var_ps(a, index, b);
            if (m >= 32)
                found = _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(index, _mm512_set1_epi32(31)), found,
                                             _mm512_permutex2var_ps(c, index, d));
            _mm512_storeu_ps(level + p * W, found);
        }
        return;
    }
#endif
    for (int k = 0; k < CHUNK; k++) level[k] = row[count[k]];
    (void)m;
}

/* values, weights, group: as for decode. order, (m,): the messages in the order in which they wrap; shifts, (m,): theirs, in
 * that order. rows, (m + 1, 8), and row, (m + 64), are scratch. */
EXPORT NAME(add_steps)(const uint64_t *key, uint64_t first, int16_t shift, int64_t m, const int32_t *below,
                       const uint16_t *table, const int64_t *order, const int64_t *shifts, const float *const *values,
                       const float *weights, int64_t group, double delta, float *rows, float *row, const int64_t *edges,
                       int64_t q, float *into, int64_t n)
{
    stream s = open_stream(first, key, shift);
    float slopes[8];
    int64_t run = -1, stop = 0, known = 0;  /* of the eight runs before `known` there are levels */
    for (int64_t c = 0; c < n; c += CHUNK) {
        float before[CHUNK], after[CHUNK], level[CHUNK], unit[CHUNK];
        int16_t r[CHUNK];
        uint16_t count[CHUNK];
        const float *from = whole(into + c, n - c, before);
        float *to = destination(into + c, n - c, after);
        draw(&s, r);
        reached(r, below, m, table, count);
        for (int64_t i = c, end = n - c < CHUNK ? n : c + CHUNK; i < end;) {
            if (i >= stop) {
                do stop = edges[++run + 1];
                while (i >= stop);
                if (run >= known) {
                    known = run / 8 * 8 + 8;
                    levels_of(rows, slopes, m, order, shifts, values, weights, group + known - 8, q - (known - 8), delta);
                }
                for (int64_t j = 0; j <= m; j++) row[j] = rows[8 * j + run % 8];
            }
            float slope = slopes[run % 8];
            int64_t until = stop < end ? stop : end;
            if (until - i == CHUNK) levels_at(level, row, m, count);
            else
                for (int64_t k = i - c; k < until - c; k++) level[k] = row[count[k]];
            for (int64_t k = i - c; k < until - c; k++) unit[k] = slope;
            i = until;
        }
        for (int p = 0; p < PIECES; p++)
            store(to + p * W, load(from + p * W) + (as_floats(r + p * W) * load(unit + p * W) + load(level + p * W)));
        finish(into + c, n - c, after);
    }
}

/* ---- rotation: see rotation.py ---- */

/* H (v / sqrt(n)), n a power of two, at most PIECE. */
INLINE void hadamard(float *v, int64_t n)
{
    float scale = 1.0f;
    int64_t left = n;
    for (; left >= 4; left /= 4) scale *= 0.5f;
    if (left == 2) scale *= 0.707106781186547524f;
    for (int64_t j = 0; j < n; j++) v[j] *= scale;
    int64_t apart = 1;
    if (n >= W) {
        /* Partners that lie in one vector: each lane takes the other's number, and adds or subtracts. */
        for (int64_t i = 0; i < n; i += W) {
            floats x = load(v + i);
            for (int h = 1; h < W; h *= 2) {
                floats partner = spread_few(x, count_up() ^ h);
                ints minus = (count_up() & h) * (INT32_MIN / h);
                x = partner + (floats)((ints)x ^ minus);
            }
            store(v + i, x);
        }
        apart = W;
        /* Two stages at once. */
        for (; 4 * apart <= n; apart *= 4)
            for (int64_t i = 0; i < n; i += 4 * apart)
                for (float *at = v + i; at < v + i + apart; at += W) {
                    floats a = load(at), b = load(at + apart), c = load(at + 2 * apart), d = load(at + 3 * apart);
                    floats ab = a + b, ba = a - b, cd = c + d, dc = c - d;
                    store(at, ab + cd);
                    store(at + apart, ba + dc);
                    store(at + 2 * apart, ab - cd);
                    store(at + 3 * apart, ba - dc);
                }
    }
    for (; apart < n; apart *= 2)
        for (int64_t i = 0; i < n; i += 2 * apart)
            for (int64_t j = i; j < i + apart; j++) {
                float a = v[j], b = v[j + apart];
                v[j] = a + b;
                v[j + apart] = a - b;
            }
}

/* Flip the signs of the piece start .. stop of a block, where its random numbers are negative. */
INLINE void flip(float *piece, int64_t start, int64_t stop, const uint64_t *key, uint64_t first, int16_t shift)
{
    for (int64_t c = start / CHUNK * CHUNK; c < stop; c += CHUNK) {
        int16_t r[CHUNK];
        stream s = open_stream(first + c / 4, key, shift);
        draw(&s, r);
        int64_t from = start > c ? start : c, to = stop < c + CHUNK ? stop : c + CHUNK;
        for (int64_t i = from; i < to; i++) {
            uint32_t bits;
            memcpy(&bits, piece + i - start, sizeof bits);
            bits ^= r[i - c] < 0 ? 0x80000000u : 0;
            memcpy(piece + i - start, &bits, sizeof bits);
        }
    }
}

EXPORT NAME(rotate)(const float *x, const uint64_t *key, uint64_t first, int16_t shift, const int64_t *edges, int64_t q,
                    float *out)
{
    for (int64_t run = 0; run < q; run++) {
        int64_t start = edges[run], n = edges[run + 1] - start;
        memcpy(out + start, x + start, n * sizeof *x);
        flip(out + start, start, start + n, key, first, shift);
        hadamard(out + start, n);
    }
}

EXPORT NAME(rotate_back)(const uint64_t *key, uint64_t first, int16_t shift, const int64_t *edges, int64_t q, float *into)
{
    for (int64_t run = 0; run < q; run++) {
        int64_t start = edges[run], n = edges[run + 1] - start;
        hadamard(into + start, n);
        flip(into + start, start, start + n, key, first, shift);
    }
}

/* values, weights, group: as for decode; keys, shifts: as for add_ramps. */
EXPORT NAME(add_rotated_back)(int64_t m, const uint8_t *const *rows, int64_t byte, const float *const *values,
                              const float *weights, int64_t group, const uint64_t *keys, const int16_t *shifts,
                              uint64_t first, const int64_t *edges, int64_t q, float *into, int64_t n)
{
    for (int64_t run = 0; run < q; run++) {
        int64_t start = edges[run], stop = edges[run + 1];
        for (int64_t i = 0; i < m; i++) {
            float piece[PIECE + CHUNK];
            float *turned = piece + start % CHUNK;
            floats value = splat(weights[i] * at_any(values[i], group + run));
            for (int64_t c = start / CHUNK * CHUNK; c < stop; c += CHUNK) {
                uint64_t few;
                const uint8_t *word = read_bits(rows[i] + byte + c / 8, n - c, &few);
                float *to = piece + c - start / CHUNK * CHUNK;
                for (int p = 0; p < PIECES; p++) store(to + p * W, plus_minus(value, word, p));
            }
            hadamard(turned, stop - start);
            flip(turned, start, stop, keys + 2 * i, first, shifts[i]);
            for (int64_t j = start; j < stop; j++) into[j] += turned[j - start];
        }
    }
}

/* ---- votes ---- */

/* Add `carry` to counters of bit planes, from plane `plane` on. */
INLINE void count_up_from(words *counter, int64_t plane, int64_t P, words carry)
{
    for (; plane < P; plane++) {
        words both = counter[plane] & carry;
        counter[plane] ^= carry;
        carry = both;
    }
}

/* Make of three words of one weight one of it, in a, and return one of twice it. */
INLINE words add_three(words *a, words b, words c)
{
    words half = *a ^ b, carry = (*a & b) | (half & c);
    *a = half ^ c;
    return carry;
}

INLINE words bits_at(const uint8_t *row, int64_t left)
{
    words bits = {0};
    if (left == VECTOR_BYTES) memcpy(&bits, row, sizeof bits);
    else memcpy(&bits, row, left);
    return bits;
}

/* Bit planes, the lowest first, of sum_i counts[i] bit_i: counters of P <= 8 bits, 8 VECTOR_BYTES of them at a time. */
EXPORT NAME(count_votes)(const uint8_t *const *rows, int64_t byte, int64_t m, const int32_t *counts, uint8_t *planes,
                         int64_t stride, int64_t P, int64_t size)
{
    for (int64_t at = 0; at < size; at += VECTOR_BYTES) {
        int64_t left = size - at < VECTOR_BYTES ? size - at : VECTOR_BYTES, from = byte + at, row = 0;
        words counter[8] = {{0}};
        while (row < m) {
            if (row + 4 <= m && P > 2 && (counts[row] & counts[row + 1] & counts[row + 2] & counts[row + 3]) == 1
                && (counts[row] | counts[row + 1] | counts[row + 2] | counts[row + 3]) == 1) {
                words two = add_three(&counter[0], bits_at(rows[row] + from, left), bits_at(rows[row + 1] + from, left));
                words more = add_three(&counter[0], bits_at(rows[row + 2] + from, left), bits_at(rows[row + 3] + from, left));
                count_up_from(counter, 2, P, add_three(&counter[1], two, more));
                row += 4;
                continue;
            }
            for (int b = 0; counts[row] >> b; b++)
                if (counts[row] >> b & 1) count_up_from(counter, b, P, bits_at(rows[row] + from, left));
            row++;
        }
        for (int64_t plane = 0; plane < P; plane++) memcpy(planes + plane * stride + at, &counter[plane], left);
    }
}

#endif

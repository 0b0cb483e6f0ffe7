// Attention of f16 and bf16 on tensor cores.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// In tiles with a running softmax (Dao 2023, "FlashAttention-2"): no length x length matrix is in memory. Scores, maxima,
// sums and the output accumulate in f32; the probabilities are rounded to the type for their product with the values.
// A block of 4 warps takes 64 · TILES queries of a head (each warp TILES times 16) and walks over the keys, KEYS at a
// time. Rows in shared memory are padded by 16 bytes, so that the 8 rows of an ldmatrix lie in different banks.
#include "attention.cuh"
#include "numbers.cuh"

namespace {

constexpr int WARPS = 4;
constexpr float LOG2_E = 1.4426950408889634f;

// c += a · b: 16 x 16 by 16 x 8, f32 sums.
template <class T>
__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

#define DEFINE(T, NAME)                                                                                            \
    template <>                                                                                                    \
    __device__ __forceinline__ void multiply<T>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {  \
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME                                        \
                     ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                  \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                                              \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                              \
    }
DEFINE(BF16, "bf16")
DEFINE(F16, "f16")
#undef DEFINE

__device__ __forceinline__ unsigned shared_address(const void *pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const unsigned short *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ void load_transposed(unsigned (&r)[4], const unsigned short *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Starts copying ROWS rows of a head into shared memory; rows from `limit` on become zeros.
template <int ROWS, int WIDTH>
__device__ __forceinline__ void copy_rows(unsigned short *to, const unsigned short *from, long long row_stride,
                                          int first, int limit) {
    constexpr int CHUNKS = WIDTH / 8;
#pragma unroll
    for (int chunk = threadIdx.x; chunk < ROWS * CHUNKS; chunk += WARPS * 32) {
        const int row = chunk / CHUNKS, col = chunk % CHUNKS * 8;
        const bool there = first + row < limit;
        const unsigned short *source = from + (there ? (first + row) * row_stride + col : 0);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                         shared_address(to + row * (WIDTH + 8) + col)),
                     "l"(source), "r"(there ? 16 : 0)
                     : "memory");
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <class T, int WIDTH, int TILES, int KEYS>
__device__ void attend(const Attention &a) {
    constexpr int QUERIES = WARPS * TILES * 16, STRIDE = WIDTH + 8;
    extern __shared__ __align__(16) unsigned short memory[];
    unsigned short *const q_tile = memory;
    unsigned short *const k_tile = q_tile + QUERIES * STRIDE;
    unsigned short *const v_tile = k_tile + KEYS * STRIDE;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, sequence = blockIdx.z;
    // The blocks with the most keys first.
    const int first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const long long q_stride = static_cast<long long>(a.heads) * WIDTH;
    const long long kv_row = static_cast<long long>(a.kv_heads) * WIDTH;
    const int kv_head = head / (a.heads / a.kv_heads);
    const int positions = a.past + a.length;
    const unsigned short *q = static_cast<const unsigned short *>(a.q) + sequence * a.length * q_stride + head * WIDTH;
    const unsigned short *k = static_cast<const unsigned short *>(a.k) + sequence * a.kv_stride + kv_head * WIDTH;
    const unsigned short *v = static_cast<const unsigned short *>(a.v) + sequence * a.kv_stride + kv_head * WIDTH;
    const unsigned char *mask = a.mask ? a.mask + static_cast<long long>(sequence) * positions : nullptr;

    const int last_query = min(first_query + QUERIES, a.length) - 1;
    const KeyRange range = visible_keys(a, a.past + first_query, a.past + last_query);
    const int first_key = range.begin / KEYS * KEYS;

    copy_rows<QUERIES, WIDTH>(q_tile, q, q_stride, first_query, a.length);
    copy_rows<KEYS, WIDTH>(k_tile, k, kv_row, first_key, positions);

    float out[TILES][WIDTH / 8][4] = {};
    // Of the rows lane / 4 and lane / 4 + 8 of each tile, in units of log2.
    float maximum[TILES][2], sum[TILES][2];
#pragma unroll
    for (int t = 0; t < TILES; ++t)
        for (int half = 0; half < 2; ++half) {
            maximum[t][half] = -INFINITY;
            sum[t][half] = 0;
        }
    const float scale = a.scale * LOG2_E;
    const int first_row = warp * TILES * 16;

    for (int key = first_key; key < range.end; key += KEYS) {
        wait_for_copies();
        __syncthreads();  // Keys are here; nobody reads the last values any more.
        copy_rows<KEYS, WIDTH>(v_tile, v, kv_row, key, positions);

        float scores[TILES][KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < WIDTH / 16; ++step) {
            unsigned queries[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; ++t)
                load_matrices(queries[t],
                              q_tile + (first_row + t * 16 + lane % 16) * STRIDE + step * 16 + lane / 16 * 8);
#pragma unroll
            for (int pair = 0; pair < KEYS / 16; ++pair) {
                unsigned keys[4];
                load_matrices(keys, k_tile + (pair * 16 + lane % 8 + lane / 16 * 8) * STRIDE + step * 16 +
                                        lane / 8 % 2 * 8);
#pragma unroll
                for (int t = 0; t < TILES; ++t) {
                    multiply<T>(scores[t][2 * pair], queries[t], keys[0], keys[1]);
                    multiply<T>(scores[t][2 * pair + 1], queries[t], keys[2], keys[3]);
                }
            }
        }

        wait_for_copies();
        __syncthreads();  // Values are here; nobody reads these keys any more.
        if (key + KEYS < range.end) copy_rows<KEYS, WIDTH>(k_tile, k, kv_row, key + KEYS, positions);

        const bool some_hidden = mask || key + KEYS > positions ||
                                 (a.causal && key + KEYS - 1 > a.past + first_query + first_row) ||
                                 (a.window && key + a.window <= a.past + last_query);
        if (some_hidden) {
#pragma unroll
            for (int t = 0; t < TILES; ++t)
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 0; i < 4; ++i) {
                        const int row = first_query + first_row + t * 16 + lane / 4 + i / 2 * 8;
                        if (hidden(a, mask, a.past + row, key + n * 8 + lane % 4 * 2 + i % 2))
                            scores[t][n][i] = -INFINITY;
                    }
        }

#pragma unroll
        for (int t = 0; t < TILES; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float highest = -INFINITY;
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
                    highest = fmaxf(highest, fmaxf(scores[t][n][2 * half], scores[t][n][2 * half + 1]));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
                const float before = maximum[t][half];
                maximum[t][half] = fmaxf(before, highest * scale);
                // A row that has seen no key yet: its exponents must not become infinity minus infinity.
                const float base = maximum[t][half] == -INFINITY ? 0 : maximum[t][half];
                const float shrink = exp2_fast(before - base);
                sum[t][half] *= shrink;
#pragma unroll
                for (int n = 0; n < WIDTH / 8; ++n) {
                    out[t][n][2 * half] *= shrink;
                    out[t][n][2 * half + 1] *= shrink;
                }
#pragma unroll
                for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
                    for (int i = 2 * half; i < 2 * half + 2; ++i) {
                        scores[t][n][i] = exp2_fast(fmaf(scores[t][n][i], scale, -base));
                        sum[t][half] += scores[t][n][i];
                    }
            }

#pragma unroll
        for (int step = 0; step < KEYS / 16; ++step) {
            unsigned shares[TILES][4];
#pragma unroll
            for (int t = 0; t < TILES; ++t) {
                const float(&low)[4] = scores[t][2 * step], (&high)[4] = scores[t][2 * step + 1];
                shares[t][0] = T::narrow2(low[0], low[1]);
                shares[t][1] = T::narrow2(low[2], low[3]);
                shares[t][2] = T::narrow2(high[0], high[1]);
                shares[t][3] = T::narrow2(high[2], high[3]);
            }
#pragma unroll
            for (int pair = 0; pair < WIDTH / 16; ++pair) {
                unsigned values[4];
                load_transposed(values, v_tile + (step * 16 + lane % 16) * STRIDE + pair * 16 + lane / 16 * 8);
#pragma unroll
                for (int t = 0; t < TILES; ++t) {
                    multiply<T>(out[t][2 * pair], shares[t], values[0], values[1]);
                    multiply<T>(out[t][2 * pair + 1], shares[t], values[2], values[3]);
                }
            }
        }
    }

    // Through the warp's own rows of the query tile, so that rows are written 16 bytes at a time. Where the loop never
    // ran, the copies of other threads may still be under way.
    wait_for_copies();
    __syncthreads();
    unsigned short *const own = q_tile + first_row * STRIDE;
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float total = sum[t][half];
            total += __shfl_xor_sync(~0u, total, 1);
            total += __shfl_xor_sync(~0u, total, 2);
            const float factor = total > 0 ? 1.0f / total : (total == total ? 0.0f : total);
#pragma unroll
            for (int n = 0; n < WIDTH / 8; ++n)
                *reinterpret_cast<unsigned *>(own + (t * 16 + lane / 4 + half * 8) * STRIDE + n * 8 + lane % 4 * 2) =
                    T::narrow2(out[t][n][2 * half] * factor, out[t][n][2 * half + 1] * factor);
        }
    __syncwarp();
    unsigned short *to = static_cast<unsigned short *>(a.out) + sequence * a.length * q_stride + head * WIDTH;
    for (int chunk = lane; chunk < TILES * 16 * (WIDTH / 8); chunk += 32) {
        const int row = chunk / (WIDTH / 8), col = chunk % (WIDTH / 8) * 8;
        const int query = first_query + first_row + row;
        if (query < a.length)
            *reinterpret_cast<int4 *>(to + query * q_stride + col) =
                *reinterpret_cast<const int4 *>(own + row * STRIDE + col);
    }
}

}  // namespace

#define DEFINE(T, NAME, WIDTH, TILES, KEYS)                                                                  \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                 \
        attention_##NAME##_##WIDTH(const __grid_constant__ Attention a) {                                    \
        attend<T, WIDTH, TILES, KEYS>(a);                                                                    \
    }
#define DEFINE_WIDTHS(T, NAME)    \
    DEFINE(T, NAME, 64, 2, 64)    \
    DEFINE(T, NAME, 96, 2, 64)    \
    DEFINE(T, NAME, 128, 2, 64)   \
    DEFINE(T, NAME, 192, 1, 64)   \
    DEFINE(T, NAME, 256, 1, 64)
DEFINE_WIDTHS(BF16, bf16)
DEFINE_WIDTHS(F16, f16)

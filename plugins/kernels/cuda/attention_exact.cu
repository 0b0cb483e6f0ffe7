// Attention in f32 for any type and any width of a head up to 256.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// The exact path of f32, and the path of widths that have no tensor-core kernel; in tiles with a running softmax too. A
// block of 8 warps takes 32 queries of a head, each warp 4. A lane scores one key of a tile of 32, then sums the columns
// lane, lane + 32, … of the values.
#include "attention.cuh"
#include "numbers.cuh"
#include "packs.cuh"

namespace {

constexpr int WARPS = 8;
constexpr int QUERIES_A_WARP = 4;
constexpr int QUERIES = WARPS * QUERIES_A_WARP;
constexpr int KEYS = 32;
constexpr int MAX_WIDTH = 256;
constexpr int COLUMNS = MAX_WIDTH / 32;

// Rows of a tile as f32 in shared memory, zeros from `limit` on and past the head's width.
template <class T>
__device__ void copy_rows(float *to, int to_stride, const typename T::storage *from, long long row_stride, int rows, int first,
                          int limit, int width, int padded) {
    for (int i = threadIdx.x; i < rows * padded; i += WARPS * 32) {
        const int row = i / padded, col = i % padded;
        to[row * to_stride + col] =
            first + row < limit && col < width ? T::widen(from[(first + row) * row_stride + col]) : 0.0f;
    }
}

template <class T>
__device__ void attend(const Attention &a) {
    extern __shared__ __align__(16) float memory_exact[];
    const int width = a.head_dim, padded = (width + 3) / 4 * 4;
    // One float4 more a row: lanes that read the same column of 8 rows meet different banks for even counts of float4s.
    const int k_stride = padded + 4;
    float *const q_tile = memory_exact;
    float *const k_tile = q_tile + QUERIES * padded;
    float *const v_tile = k_tile + KEYS * k_stride;

    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int head = blockIdx.y, sequence = blockIdx.z;
    const int first_query = (gridDim.x - 1 - blockIdx.x) * QUERIES;
    const long long q_stride = static_cast<long long>(a.heads) * width;
    const long long kv_row = static_cast<long long>(a.kv_heads) * width;
    const int kv_head = head / (a.heads / a.kv_heads);
    const int positions = a.past + a.length;
    using E = typename T::storage;
    const E *q = static_cast<const E *>(a.q) + sequence * a.length * q_stride + head * width;
    const E *k = static_cast<const E *>(a.k) + sequence * a.kv_stride + kv_head * width;
    const E *v = static_cast<const E *>(a.v) + sequence * a.kv_stride + kv_head * width;
    const unsigned char *mask = a.mask ? a.mask + static_cast<long long>(sequence) * positions : nullptr;

    const int last_query = min(first_query + QUERIES, a.length) - 1;
    const KeyRange range = visible_keys(a, a.past + first_query, a.past + last_query);

    copy_rows<T>(q_tile, padded, q, q_stride, QUERIES, first_query, a.length, width, padded);

    float out[QUERIES_A_WARP][COLUMNS] = {};
    float maximum[QUERIES_A_WARP], sum[QUERIES_A_WARP];
    for (int r = 0; r < QUERIES_A_WARP; ++r) {
        maximum[r] = -INFINITY;
        sum[r] = 0;
    }
    const float *const queries = q_tile + warp * QUERIES_A_WARP * padded;
    const int first_position = a.past + first_query + warp * QUERIES_A_WARP;

    for (int key = range.begin; key < range.end; key += KEYS) {
        __syncthreads();
        copy_rows<T>(k_tile, k_stride, k, kv_row, KEYS, key, positions, width, padded);
        copy_rows<T>(v_tile, padded, v, kv_row, KEYS, key, positions, width, padded);
        __syncthreads();

        float score[QUERIES_A_WARP] = {};
        for (int col = 0; col < padded; col += 4) {
            const float4 b = *reinterpret_cast<const float4 *>(k_tile + lane * k_stride + col);
#pragma unroll
            for (int r = 0; r < QUERIES_A_WARP; ++r) {
                const float4 x = *reinterpret_cast<const float4 *>(queries + r * padded + col);
                score[r] = fmaf(x.x, b.x, fmaf(x.y, b.y, fmaf(x.z, b.z, fmaf(x.w, b.w, score[r]))));
            }
        }
#pragma unroll
        for (int r = 0; r < QUERIES_A_WARP; ++r) {
            score[r] = hidden(a, mask, first_position + r, key + lane) ? -INFINITY : score[r] * a.scale;
            float highest = score[r];
            for (int offset = 16; offset > 0; offset /= 2)
                highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, offset));
            const float before = maximum[r];
            maximum[r] = fmaxf(before, highest);
            const float base = maximum[r] == -INFINITY ? 0 : maximum[r];
            const float shrink = expf(before - base);
            score[r] = expf(score[r] - base);
            sum[r] = sum[r] * shrink + score[r];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) out[r][c] *= shrink;
        }
        for (int j = 0; j < KEYS; ++j) {
            float value[COLUMNS];
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c)
                value[c] = lane + 32 * c < padded ? v_tile[j * padded + lane + 32 * c] : 0.0f;
#pragma unroll
            for (int r = 0; r < QUERIES_A_WARP; ++r) {
                const float share = __shfl_sync(~0u, score[r], j);
#pragma unroll
                for (int c = 0; c < COLUMNS; ++c) out[r][c] = fmaf(share, value[c], out[r][c]);
            }
        }
    }

    E *to = static_cast<E *>(a.out) + sequence * a.length * q_stride + head * width;
#pragma unroll
    for (int r = 0; r < QUERIES_A_WARP; ++r) {
        float total = sum[r];
        for (int offset = 16; offset > 0; offset /= 2) total += __shfl_xor_sync(~0u, total, offset);
        const float factor = total > 0 ? 1.0f / total : (total == total ? 0.0f : total);
        const int query = first_query + warp * QUERIES_A_WARP + r;
#pragma unroll
        for (int c = 0; c < COLUMNS; ++c)
            if (query < a.length && lane + 32 * c < width)
                to[query * q_stride + lane + 32 * c] = T::narrow(out[r][c] * factor);
    }
}

}  // namespace

#define DEFINE(T, NAME)                                                                                            \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                       \
        attention_exact_##NAME(const __grid_constant__ Attention a) {                                              \
        attend<T>(a);                                                                                              \
    }
FOR_TYPES(DEFINE)

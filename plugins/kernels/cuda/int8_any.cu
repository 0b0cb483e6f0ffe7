// LLM.int8()'s product for any shape, type and GPU: exact integer sums, dequantised, outlier columns in f32 on top.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// A block of 256 threads computes 64 x 64 results, each thread 4 x 4 of them with 4-way byte products.
#include "numbers.cuh"

static constexpr int TILE = 64;
static constexpr int WORDS = 16;  // of 4 codes, a tile's depth
static constexpr int PITCH = WORDS + 1;
static constexpr float PRODUCT_STEP = 1.0f / (127.0f * 127.0f);

struct Int8Any {
    const signed char *x;  // [tokens, cols]
    const signed char *w;  // [rows, cols]
    const float *x_scales;
    const float *w_scales;
    const u32 *outliers;  // their number
    const float *bias;    // null for none
    u32 tokens, rows, cols, pitch;
};

// Four codes of a row, zeros outside of the matrix.
static __device__ __forceinline__ int four_codes(const signed char *matrix, u32 row, u32 rows, u32 col, u32 cols) {
    if (row >= rows || col >= cols) return 0;
    const signed char *at = matrix + static_cast<u64>(row) * cols + col;
    if (cols % 4 == 0) return *reinterpret_cast<const int *>(at);
    u32 word = 0;
    for (u32 i = 0; i < 4 && col + i < cols; i++) word |= static_cast<u32>(static_cast<u8>(at[i])) << 8 * i;
    return static_cast<int>(word);
}

// T: the type of the outlier columns; Y: that of the result.
template <class T, class Y>
static __device__ __forceinline__ void any(const Int8Any &p, const typename T::storage *outlier_x,
                                           const typename T::storage *outlier_w, typename Y::storage *y) {
    __shared__ int x_tile[TILE * PITCH], w_tile[TILE * PITCH];
    const u32 first_token = blockIdx.y * TILE, first_row = blockIdx.x * TILE;
    const u32 column = threadIdx.x % 16, line = threadIdx.x / 16;
    int sums[4][4] = {};
    for (u32 depth = 0; depth < p.cols; depth += 4 * WORDS) {
        for (u32 i = threadIdx.x; i < TILE * WORDS; i += 256) {
            const u32 row = i / WORDS, word = i % WORDS;
            x_tile[row * PITCH + word] = four_codes(p.x, first_token + row, p.tokens, depth + 4 * word, p.cols);
            w_tile[row * PITCH + word] = four_codes(p.w, first_row + row, p.rows, depth + 4 * word, p.cols);
        }
        __syncthreads();
#pragma unroll
        for (int word = 0; word < WORDS; word++) {
            int a[4], b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                a[i] = x_tile[(line + 16 * i) * PITCH + word];
                b[i] = w_tile[(column + 16 * i) * PITCH + word];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++) sums[i][j] = __dp4a(a[i], b[j], sums[i][j]);
        }
        __syncthreads();
    }
    const u32 outliers = *p.outliers;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const u32 token = first_token + line + 16 * i, row = first_row + column + 16 * j;
            if (token >= p.tokens || row >= p.rows) continue;
            float value = static_cast<float>(sums[i][j]) * (p.x_scales[token] * p.w_scales[row]) * PRODUCT_STEP;
            if (p.bias) value += p.bias[row];
            // Rounded once without outliers, and once before and once after their part with them, as in the reference.
            value = Y::widen(Y::narrow(value));
            if (outliers) {
                float part = 0;
#pragma unroll 1
                for (u32 c = 0; c < outliers; c++)
                    part = fmaf(T::widen(outlier_x[static_cast<u64>(token) * p.pitch + c]),
                                T::widen(outlier_w[static_cast<u64>(row) * p.pitch + c]), part);
                value += part;
            }
            y[static_cast<u64>(token) * p.rows + row] = Y::narrow(value);
        }
}

#define DEFINE(T, Y, NAME)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256)                                                          \
        int8_any_##NAME(const __grid_constant__ Int8Any p, const T::storage *outlier_x,                        \
                        const T::storage *outlier_w, Y::storage *y) {                                          \
        any<T, Y>(p, outlier_x, outlier_w, y);                                                                 \
    }
DEFINE(F32, F32, f32_f32)
DEFINE(F16, F16, f16_f16)
DEFINE(F16, F32, f16_f32)
DEFINE(BF16, BF16, bf16_bf16)
DEFINE(BF16, F32, bf16_f32)

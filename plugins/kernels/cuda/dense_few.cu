// Products of 1 to 4 rows of activations with a dense weight, bound by reading the weight once; sums in f32.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// A warp a row of the weight. Activations are small and come from the first-level cache.
#include "numbers.cuh"
#include "packs.cuh"

static constexpr int WARPS = 4;

// Eight elements that nobody reads again.
template <class T>
static __device__ __forceinline__ void load_once(const typename T::storage *from, float (&to)[8]) {
    typedef Pack<typename T::storage, 8> Eight;
    union {
        uint4 words[sizeof(Eight) / 16];
        Eight pack;
    } bits;
#pragma unroll
    for (int i = 0; i < sizeof(Eight) / 16; i++) bits.words[i] = __ldcs(reinterpret_cast<const uint4 *>(from) + i);
#pragma unroll
    for (int i = 0; i < 8; i++) to[i] = T::widen(bits.pack.values[i]);
}

template <class T, class Y, int TOKENS>
static __device__ __forceinline__ void few(const typename T::storage *x, const typename T::storage *w,
                                           typename Y::storage *y, u32 tokens, u32 rows, u32 cols) {
    const u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const typename T::storage *weights = w + static_cast<u64>(row) * cols;
    float sums[TOKENS] = {};
#pragma unroll 4
    for (u32 col = lane * 8; col < cols; col += 256) {
        float weight[8];
        load_once<T>(weights + col, weight);
#pragma unroll
        for (int t = 0; t < TOKENS; t++) {
            if (TOKENS > 1 && t >= tokens) break;
            float values[8];
            load<T>(x + static_cast<u64>(t) * cols + col, values);
#pragma unroll
            for (int i = 0; i < 8; i++) sums[t] = fmaf(values[i], weight[i], sums[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        for (int offset = 16; offset > 0; offset /= 2) sums[t] += __shfl_xor_sync(~0u, sums[t], offset);
        if (lane == 0 && t < tokens) y[static_cast<u64>(t) * rows + row] = Y::narrow(sums[t]);
    }
}

#define DEFINE(T, Y, NAME, TOKENS)                                                                                \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                                      \
        dense_few_##NAME##_##TOKENS(const T::storage *x, const T::storage *w, Y::storage *y, u32 tokens, u32 rows, \
                                    u32 cols) {                                                                   \
        few<T, Y, TOKENS>(x, w, y, tokens, rows, cols);                                                           \
    }
#define DEFINE_TYPES(TOKENS)              \
    DEFINE(F32, F32, f32_f32, TOKENS)     \
    DEFINE(F16, F16, f16_f16, TOKENS)     \
    DEFINE(F16, F32, f16_f32, TOKENS)     \
    DEFINE(BF16, BF16, bf16_bf16, TOKENS) \
    DEFINE(BF16, F32, bf16_f32, TOKENS)
DEFINE_TYPES(1)
DEFINE_TYPES(4)

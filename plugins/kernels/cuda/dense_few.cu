// Products of 1 to 4 rows of activations with a dense weight, bound by reading the weight once; sums in f32.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// A warp a row of the weight. Activations are small and come from the first-level cache.
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"

static constexpr int WARPS = 4;

template <class T, class Y, int TOKENS>
static __device__ __forceinline__ void few(const typename T::storage *x, const typename T::storage *w,
                                           typename Y::storage *y, u32 tokens, u32 rows, u32 cols) {
    typedef Pack<typename T::storage, 8> Eight;
    constexpr int WORDS = sizeof(Eight) / 16;
    // Of a lane, on their way at once.
    constexpr int BATCH = TOKENS == 1 && WORDS == 1 ? 8 : 4;
    const u32 row = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (row >= rows) return;
    const typename T::storage *weights = w + static_cast<u64>(row) * cols;
    union {
        uint4 words[WORDS];
        Eight pack;
    } bits[BATCH];
    // Nobody reads them again. Volatile: all of a batch go out before the first is waited for.
    auto fetch = [&](u32 first) {
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const u32 col = first + (b * 32 + lane) * 8;
#pragma unroll
            for (int i = 0; i < WORDS; i++)
                if (col < cols) {
                    uint4 &to = bits[b].words[i];
                    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                                 : "l"(reinterpret_cast<const uint4 *>(weights + col) + i));
                }
        }
    };
    fetch(0);
    end_of_overlap();
    float sums[TOKENS] = {};
#pragma unroll 1
    for (u32 first = 0; first < cols; first += BATCH * 256) {
        if (first > 0) fetch(first);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const u32 col = first + (b * 32 + lane) * 8;
            if (col >= cols) break;
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (TOKENS > 1 && t >= tokens) break;
                float values[8];
                load<T>(x + static_cast<u64>(t) * cols + col, values);
#pragma unroll
                for (int i = 0; i < 8; i++) sums[t] = fmaf(values[i], T::widen(bits[b].pack.values[i]), sums[t]);
            }
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

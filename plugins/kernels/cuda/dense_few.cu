// Products of 1 to 4 rows of activations with a dense weight, bound by reading the weight once; sums in f32.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
//
// One or two warps a row of the weight. Activations are small and come from the first-level cache. One launch multiplies
// with up to three weights of as many columns, row after row; or with two whose rows alternate, of which the first's
// product, through silu, gates the second's.
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"
#include "silu.cuh"

static constexpr int WARPS = 4;
static constexpr int MOST_PARTS = 3;

// One weight.
struct Part {
    const void *w;
    void *y;
    u32 rows;
    u32 first_row;  // beyond all rows where there is no such part
};

struct Few {
    Part parts[MOST_PARTS];
    const void *x;
    u32 tokens, cols;
    u32 rows;    // of all parts
    u32 gated;   // whether the first of two parts gates the second
    u32 split;   // warps a row: 1 or 2
};

template <class T, class Y, int TOKENS>
static __device__ __forceinline__ void few(const Few &p) {
    typedef Pack<typename T::storage, 8> Eight;
    constexpr int WORDS = sizeof(Eight) / 16;
    // Of a lane, on their way at once.
    constexpr int BATCH = TOKENS == 1 && WORDS == 1 ? 8 : 4;
    __shared__ float found[WARPS][TOKENS];
    const u32 warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const u32 slots = WARPS / p.split, first_slot = blockIdx.x * slots;
    struct Place {
        const Part &part;
        u32 row;
    };
    auto place = [&](u32 slot) -> Place {
        if (p.gated) return {p.parts[slot % 2], slot / 2};
        const Part &part = p.parts[(slot >= p.parts[1].first_row) + (slot >= p.parts[2].first_row)];
        return {part, slot - part.first_row};
    };
    const u32 slot = first_slot + warp / p.split;
    const bool there = slot < p.rows;
    const Place at = place(there ? slot : 0);
    // This warp's columns.
    const u32 share = (p.cols / 8 + 32 * p.split - 1) / (32 * p.split) * 256, begin = warp % p.split * share;
    const u32 end = there ? min(begin + share, p.cols) : 0;
    const typename T::storage *x = static_cast<const typename T::storage *>(p.x);
    const typename T::storage *weights = static_cast<const typename T::storage *>(at.part.w) + static_cast<u64>(at.row) * p.cols;
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
                if (col < end) {
                    uint4 &to = bits[b].words[i];
                    asm volatile("ld.global.cs.v4.u32 {%0, %1, %2, %3}, [%4];"
                                 : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
                                 : "l"(reinterpret_cast<const uint4 *>(weights + col) + i));
                }
        }
    };
    fetch(begin);
    end_of_overlap();
    float sums[TOKENS] = {};
#pragma unroll 1
    for (u32 first = begin; first < end; first += BATCH * 256) {
        if (first > begin) fetch(first);
#pragma unroll
        for (int b = 0; b < BATCH; b++) {
            const u32 col = first + (b * 32 + lane) * 8;
            if (col >= end) break;
#pragma unroll
            for (int t = 0; t < TOKENS; t++) {
                if (TOKENS > 1 && t >= p.tokens) break;
                float values[8];
                load<T>(x + static_cast<u64>(t) * p.cols + col, values);
#pragma unroll
                for (int i = 0; i < 8; i++) sums[t] = fmaf(values[i], T::widen(bits[b].pack.values[i]), sums[t]);
            }
        }
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++) {
        for (int offset = 16; offset > 0; offset /= 2) sums[t] += __shfl_xor_sync(~0u, sums[t], offset);
        if (lane == 0) found[warp][t] = sums[t];
    }
    __syncthreads();
    const u32 together = p.gated + 1, results = slots / together;
    if (threadIdx.x >= results * TOKENS) return;
    const u32 token = threadIdx.x / results, mine = threadIdx.x % results * together;
    if (token >= p.tokens || first_slot + mine >= p.rows) return;
    auto whole = [&](u32 slot) {
        float value = found[slot * p.split][token];
        if (p.split > 1) value += found[slot * p.split + 1][token];
        return Y::narrow(value);
    };
    const Place to = place(first_slot + mine);
    typename Y::storage value = whole(mine);
    if (p.gated) {
        value = Y::narrow(silu_times(Y::widen(value), Y::widen(whole(mine + 1))));
    }
    static_cast<typename Y::storage *>(to.part.y)[static_cast<u64>(token) * to.part.rows + to.row] = value;
}

#define DEFINE(T, Y, NAME, TOKENS)                                                                      \
    extern "C" __global__ void __launch_bounds__(WARPS * 32)                                            \
        dense_few_##NAME##_##TOKENS(const __grid_constant__ Few p) {                                    \
        few<T, Y, TOKENS>(p);                                                                           \
    }
#define DEFINE_TYPES(TOKENS)              \
    DEFINE(F32, F32, f32_f32, TOKENS)     \
    DEFINE(F16, F16, f16_f16, TOKENS)     \
    DEFINE(F16, F32, f16_f32, TOKENS)     \
    DEFINE(BF16, BF16, bf16_bf16, TOKENS) \
    DEFINE(BF16, F32, bf16_f32, TOKENS)
DEFINE_TYPES(1)
DEFINE_TYPES(4)

// Dense elements to a block codebook of 4 bits, and its scales to 8 bits: bit for bit what a CPU gives.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"

// The buckets are the intervals between ascending bounds, a bound belonging to the bucket below it.
struct Buckets {
    float bounds[15];
    u32 codes[16];
};

static constexpr float SCALE_FLOOR = 1.0e-38f;

// Magnitudes are ordered as their bits are, with NaN above infinity.
static __device__ __forceinline__ float largest(u32 bits) { return __uint_as_float(__reduce_max_sync(~0u, bits)); }

static __device__ __forceinline__ float at_least_floor(float scale) { return scale < SCALE_FLOOR ? SCALE_FLOOR : scale; }

// That of the last bucket, less a step for every bound that the value does not exceed; NaN exceeds all.
static __device__ __forceinline__ u32 code_of(float value, const Buckets& buckets) {
    u32 code = buckets.codes[15];
#pragma unroll
    for (int i = 0; i < 15; i++)
        if (value <= buckets.bounds[i]) code -= buckets.codes[i + 1] - buckets.codes[i];
    return code;
}

// A warp a block. In a last block that is not full, elements are divided by the scale, and the scale has a floor;
// elsewhere they are multiplied with its reciprocal. The first of two codes lies in the upper half of their byte.
template <class T>
static __device__ __forceinline__ void quantize(u8* codes, float* scales, const typename T::storage* x, u64 count,
                                                u32 block, const Buckets& buckets) {
    const u32 lane = threadIdx.x % 32;
    const u64 blocks = (count + block - 1) / block;
    for (u64 at = (static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x) / 32; at < blocks;
         at += static_cast<u64>(gridDim.x) * blockDim.x / 32) {
        u64 first = at * block;
        u32 length = static_cast<u32>(min(static_cast<u64>(block), count - first));
        u32 most = 0;
        for (u32 i = lane; i < length; i += 32) most = max(most, __float_as_uint(fabsf(T::widen(x[first + i]))));
        float scale = largest(most);
        bool full = length == block;
        float divisor = at_least_floor(scale);
        float reciprocal = __fdiv_rn(1, divisor);
        if (lane == 0) scales[at] = full ? scale : divisor;
        auto code = [&](u32 i) {
            float value = i < length ? T::widen(x[first + i]) : 0;
            return code_of(full ? __fmul_rn(value, reciprocal) : __fdiv_rn(value, divisor), buckets);
        };
        for (u32 i = 2 * lane; i < length; i += 64)
            codes[(first + i) / 2] = static_cast<u8>(code(i) << 4 | code(i + 1));
    }
}

// The mean in torch's order of sums on a CPU: 8 lanes (1 for less than 8 values), 4 vectors side by side, a cascade of 4
// levels. One warp: thread 8 a + l sums lane l of vector a of every four.
static __device__ __forceinline__ void mean(float* out, const float* values, u32 count) {
    const u32 lanes = count < 8 ? 1 : 8, thread = threadIdx.x, width = 4 * lanes;
    const u32 groups = count / width;
    const u32 logarithm = groups <= 2 ? 1 : 32 - __clz(groups - 1);
    const u32 power = max(4u, logarithm / 4), run = 1u << power;
    float levels[4] = {};
    if (thread < width) {
        constexpr u32 AHEAD = 16;  // runs are multiples of 16
        for (u32 group = 0; group < groups; group += AHEAD) {
            float next[AHEAD];
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++) next[i] = group + i < groups ? values[(group + i) * width + thread] : 0;
#pragma unroll
            for (u32 i = 0; i < AHEAD; i++)
                if (group + i < groups) levels[0] = __fadd_rn(levels[0], next[i]);
            u32 done = group + AHEAD;
            if (done <= groups && done % run == 0) {
#pragma unroll
                for (u32 level = 1; level < 4; level++) {
                    levels[level] = __fadd_rn(levels[level], levels[level - 1]);
                    levels[level - 1] = 0;
                    if (done & ((run - 1) << (level * power))) break;
                }
            }
        }
    }
    float sum = __fadd_rn(__fadd_rn(__fadd_rn(levels[0], levels[1]), levels[2]), levels[3]);
    u32 vectors = count / lanes;
    if (thread < lanes)
        for (u32 vector = groups * 4; vector < vectors; vector++) sum = __fadd_rn(sum, values[vector * lanes + thread]);
    for (u32 vector = 1; vector < 4; vector++) {
        float other = __shfl_sync(~0u, sum, thread % lanes + vector * lanes);
        if (thread < lanes) sum = __fadd_rn(sum, other);
    }
    float total = 0;
    for (u32 i = vectors * lanes; i < count; i++) total = __fadd_rn(total, values[i]);
    for (u32 lane = 0; lane < lanes; lane++) total = __fadd_rn(total, __shfl_sync(~0u, sum, lane));
    if (thread == 0) *out = __fdiv_rn(total, static_cast<float>(count));
}

// The code of a value: it is first rounded to one of 65536 steps over [-1, 1], as bitsandbytes does.
static __device__ __forceinline__ u32 dynamic_code(float value, const float* map) {
    float position = __fadd_rn(
        __fmul_rn(__fmul_rn(__fadd_rn(fminf(fmaxf(value, -1.0f), 1.0f), 1.0f), 0.5f), 65535.0f), 0.5f);
    float step = __fadd_rn(-1.0f, __fdiv_rn(__fmul_rn(2.0f, static_cast<float>(static_cast<u32>(position))), 65535.0f));
    u32 below = 0, above = 255;
    while (below < above) {
        u32 middle = (below + above) / 2;
        if (__fmul_rn(0.5f, __fadd_rn(map[middle], map[middle + 1])) < step)
            below = middle + 1;
        else
            above = middle;
    }
    return below;
}

// A block of 256 threads a block of the second level.
extern "C" __global__ void __launch_bounds__(256)
    codebook_quantize_scales(u8* codes, float* second, const float* scales, const float* offset, const float* map,
                             u32 count, u32 block) {
    __shared__ float table[256];
    __shared__ u32 warps[8];
    table[threadIdx.x] = map[threadIdx.x];
    u32 first = blockIdx.x * block, last = min(first + block, count), most = 0;
    for (u32 i = first + threadIdx.x; i < last; i += 256)
        most = max(most, __float_as_uint(fabsf(__fsub_rn(scales[i], *offset))));
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
    __syncthreads();
    float scale = __uint_as_float(__reduce_max_sync(~0u, warps[threadIdx.x % 8]));
    float reciprocal = __fdiv_rn(1, scale);
    for (u32 i = first + threadIdx.x; i < last; i += 256)
        codes[i] = scale == 0 ? 0 : static_cast<u8>(dynamic_code(__fmul_rn(__fsub_rn(scales[i], *offset), reciprocal), table));
    if (threadIdx.x == 0) second[blockIdx.x] = scale;
}

extern "C" __global__ void __launch_bounds__(32)
    codebook_quantize_mean(float* out, const float* values, u32 count) {
    mean(out, values, count);
}

#define KERNEL(name, type)                                                                                         \
    extern "C" __global__ void __launch_bounds__(256)                                                              \
        codebook_quantize_##name(u8* codes, float* scales, const type::storage* x, u64 count, u32 block,           \
                                 const __grid_constant__ Buckets buckets) {                                        \
        quantize<type>(codes, scales, x, count, block, buckets);                                                   \
    }
KERNEL(f32, F32)
KERNEL(f16, F16)
KERNEL(bf16, BF16)

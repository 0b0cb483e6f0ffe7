// LLM.int8()'s activations: quantised a row at a time, outlier columns found and set aside, nothing known to the host.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"

static constexpr int THREADS = 256;
static constexpr int HELD = 8;  // groups of 8 elements a thread keeps in registers between its two passes over a row

struct Columns {
    u32 finished;  // rows quantised so far
    u32 count;     // outlier columns, once all rows are quantised
};

struct Quantize {
    signed char* codes;  // [m, k]
    float* scales;       // [m]
    Columns* columns;    // zero at the start
    u32* flags;          // a bit a column, zero at the start
    u32* list;           // [k]: the outlier columns, ascending
    const float* threshold;
    u32 m, k;
    u32 list_later;  // whether another launch lists the outlier columns
};

// Magnitude as the bits of the value rounded to f16 (ordered as magnitudes are, NaN above infinity), and that value.
template <class T>
static __device__ __forceinline__ float rounded(typename T::storage element) {
    return F16::widen(F16::narrow(T::widen(element)));
}

static __device__ __forceinline__ u32 largest(u32 value) {
    __shared__ u32 warps[THREADS / 32];
    value = __reduce_max_sync(~0u, value);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    value = warps[threadIdx.x % (THREADS / 32)];
    return __reduce_max_sync(~0u, value);
}

// The columns whose bit is set, in order, by one block.
static __device__ __forceinline__ void list_columns(const Quantize& p) {
    __shared__ u32 sums[THREADS / 32];
    u32 base = 0, words = (p.k + 31) / 32, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u32 first = 0; first < words; first += THREADS) {
        u32 word = first + threadIdx.x < words ? __ldcg(p.flags + first + threadIdx.x) : 0;
        u32 count = __popc(word), before = count;
        for (u32 distance = 1; distance < 32; distance *= 2) {
            u32 other = __shfl_up_sync(~0u, before, distance);
            if (lane >= distance) before += other;
        }
        if (lane == 31) sums[warp] = before;
        __syncthreads();
        u32 at = base + before - count;
        for (u32 i = 0; i < THREADS / 32; i++) {
            if (i < warp) at += sums[i];
            base += sums[i];
        }
        for (; word; word &= word - 1) p.list[at++] = (first + threadIdx.x) * 32 + __ffs(word) - 1;
        __syncthreads();
    }
    if (threadIdx.x == 0) p.columns->count = base;
}

template <class T>
static __device__ __forceinline__ void quantize(const typename T::storage* x, const Quantize& p) {
    end_of_overlap();
    const float threshold = __ldg(p.threshold);
    const typename T::storage* row = x + static_cast<u64>(blockIdx.x) * p.k;
    signed char* codes = p.codes + static_cast<u64>(blockIdx.x) * p.k;
    // A NaN is no outlier, as no comparison with one is true.
    auto is_outlier = [&](float value) { return threshold > 0 && fabsf(value) >= threshold; };
    auto flag = [&](u32 column) {
        u32 bit = 1u << column % 32;
        if (!(__ldcg(p.flags + column / 32) & bit)) atomicOr(p.flags + column / 32, bit);
    };
    bool vectors = p.k % 8 == 0 && p.k <= THREADS * 8 * HELD && sizeof(typename T::storage) == 2;
    u32 most = 0;
    uint4 held[HELD];
    if (vectors) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            u32 at = (i * THREADS + threadIdx.x) * 8;
            if (at < p.k) held[i] = *reinterpret_cast<const uint4*>(row + at);
        }
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            u32 at = (i * THREADS + threadIdx.x) * 8;
            if (at >= p.k) break;
            const u32 words[4] = {held[i].x, held[i].y, held[i].z, held[i].w};
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float value = rounded<T>(static_cast<typename T::storage>(words[j / 2] >> (16 * (j % 2))));
                if (is_outlier(value))
                    flag(at + j);
                else
                    most = max(most, __float_as_uint(fabsf(value)));
            }
        }
    } else {
        for (u32 at = threadIdx.x; at < p.k; at += THREADS) {
            float value = rounded<T>(row[at]);
            if (is_outlier(value))
                flag(at);
            else
                most = max(most, __float_as_uint(fabsf(value)));
        }
    }
    float scale = __uint_as_float(largest(most));
    float factor = __fmul_rn(__fdiv_rn(1, scale), 127);
    // A NaN becomes 0: every code of a row without, or with an endless or undefined scale.
    auto code = [&](float value) { return is_outlier(value) ? 0 : __float2int_rn(__fmul_rn(value, factor)); };
    if (vectors) {
#pragma unroll
        for (int i = 0; i < HELD; i++) {
            u32 at = (i * THREADS + threadIdx.x) * 8;
            if (at >= p.k) break;
            const u32 words[4] = {held[i].x, held[i].y, held[i].z, held[i].w};
            u32 packed[2] = {0, 0};
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float value = rounded<T>(static_cast<typename T::storage>(words[j / 2] >> (16 * (j % 2))));
                packed[j / 4] |= (code(value) & 255) << (8 * (j % 4));
            }
            *reinterpret_cast<uint2*>(codes + at) = make_uint2(packed[0], packed[1]);
        }
    } else {
        for (u32 at = threadIdx.x; at < p.k; at += THREADS) codes[at] = code(rounded<T>(row[at]));
    }
    if (threadIdx.x == 0) p.scales[blockIdx.x] = scale;
    if (p.list_later) return;
    // The block that finishes last sees every flag.
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) last = atomicAdd(&p.columns->finished, 1) == p.m - 1;
    __syncthreads();
    if (last) list_columns(p);
}

struct Gather {
    signed char* codes;         // [m, k]
    const Columns* columns;
    const u32* list;
    const signed char* weight;  // [n, k]
    const float* weight_scales; // [n]
    u32 m, n, k, pitch;
    u32 left_out;  // up to so many columns of W are left to the product
};

// Outlier columns of X as they are and of W dequantised, side by side, filled up with zeros to a multiple of 64; their
// codes become 0.
template <class T>
static __device__ __forceinline__ void gather(typename T::storage* out_x, typename T::storage* out_w,
                                              const typename T::storage* x, const Gather& p) {
    end_of_overlap();
    const u32 count = p.columns->count, width = (count + 63) / 64 * 64;
    if (count == 0) return;
    // 16 threads take a row, and each of them four places in the list at a time, whose columns are neighbours where there
    // are many outliers.
    typedef Pack<typename T::storage, 4> Four;
    const u32 rows = count <= p.left_out ? p.m : p.m + p.n;
    const u32 teams = gridDim.x * (blockDim.x / 16), team = blockIdx.x * (blockDim.x / 16) + threadIdx.x / 16;
    for (u32 row = team; row < rows; row += teams) {
        const bool of_x = row < p.m;
        const u32 index = of_x ? row : row - p.m;
        const u64 start = static_cast<u64>(index) * p.k;
        typename T::storage* to = (of_x ? out_x : out_w) + static_cast<u64>(index) * p.pitch;
        const float scale = of_x ? 0 : p.weight_scales[index];
        for (u32 at = threadIdx.x % 16 * 4; at < width; at += 64) {
            // The list is as long as there are columns, which need not be a multiple of 4.
            u32 column[4];
#pragma unroll
            for (int i = 0; i < 4; i++) column[i] = at + i < count ? p.list[at + i] : 0;
            const bool neighbours =
                at + 4 <= count && column[3] - column[0] == 3 && column[0] % 4 == 0 && p.k % 4 == 0;
            Four out;
            if (of_x) {
                if (neighbours) {
                    out = *reinterpret_cast<const Four*>(x + start + column[0]);
                    *reinterpret_cast<u32*>(p.codes + start + column[0]) = 0;
                } else {
#pragma unroll
                    for (int i = 0; i < 4; i++) {
                        const bool real = at + i < count;
                        out.values[i] = real ? x[start + column[i]] : T::narrow(0);
                        if (real) p.codes[start + column[i]] = 0;
                    }
                }
            } else {
                const signed char* from = p.weight + start;
                char4 codes = {0, 0, 0, 0};
                if (neighbours) codes = *reinterpret_cast<const char4*>(from + column[0]);
                const signed char four[4] = {codes.x, codes.y, codes.z, codes.w};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const bool real = at + i < count;
                    const float value = static_cast<float>(neighbours ? four[i] : real ? from[column[i]] : 0);
                    out.values[i] = T::narrow(real ? __fmul_rn(__fmul_rn(value, scale), 1.0f / 127.0f) : 0);
                }
            }
            *reinterpret_cast<Four*>(to + at) = out;
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS) int8_list(const Quantize p) {
    end_of_overlap();
    list_columns(p);
}

#define KERNELS(name, type)                                                                                       \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        int8_quantize_##name(const type::storage* x, const Quantize p) {                                          \
        quantize<type>(x, p);                                                                                     \
    }                                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                         \
        int8_gather_##name(type::storage* out_x, type::storage* out_w, const type::storage* x, const Gather p) {  \
        gather<type>(out_x, out_w, x, p);                                                                         \
    }
KERNELS(f32, F32)
KERNELS(f16, F16)
KERNELS(bf16, BF16)

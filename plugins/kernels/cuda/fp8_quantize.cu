// Activations of products in e4m3: each row becomes codes with a scale of its own, max |x| / 448. A block a row.
// targets: sm_89 sm_90 sm_100 sm_120 compute_89
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"
#include "silu.cuh"

namespace {

constexpr int MOST_WARPS = 16;
constexpr int HELD = 4;  // packs that a thread keeps in registers between its two passes over a row

// Elements as they are.
template <class T, int COUNT>
struct Plain {
    const typename T::storage *x;
    __device__ __forceinline__ Pack<typename T::storage, COUNT> operator()(long long at) const {
        return *reinterpret_cast<const Pack<typename T::storage, COUNT> *>(x + at);
    }
};

// The gated product of an MLP, rounded once: what silu_product would have written.
template <class T, int COUNT>
struct Gated {
    const typename T::storage *gate, *up;
    __device__ __forceinline__ Pack<typename T::storage, COUNT> operator()(long long at) const {
        float a[COUNT], b[COUNT];
        load<T>(gate + at, a);
        load<T>(up + at, b);
        Pack<typename T::storage, COUNT> pack;
#pragma unroll
        for (int i = 0; i < COUNT; ++i) pack.values[i] = T::narrow(silu_times(a[i], b[i]));
        return pack;
    }
};

// The largest magnitude as bits, which are ordered as magnitudes are, with NaN above infinity.
template <class T, int COUNT>
__device__ __forceinline__ u32 largest(u32 most, const Pack<typename T::storage, COUNT> &pack) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) most = max(most, __float_as_uint(fabsf(T::widen(pack.values[i]))));
    return most;
}

__device__ __forceinline__ u32 largest_of_block(u32 most) {
    __shared__ u32 warps[MOST_WARPS];
    most = __reduce_max_sync(~0u, most);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = most;
    __syncthreads();
    const u32 lane = threadIdx.x % 32;
    return __reduce_max_sync(~0u, lane < blockDim.x / 32 ? warps[lane] : 0);
}

// Two codes, nearest even and 448 at most, the first in the lower byte.
__device__ __forceinline__ u32 codes2(float first, float second) {
    u16 bits;
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(bits) : "f"(second), "f"(first));
    return bits;
}

__device__ __forceinline__ float scaled(float value, float scale) { return scale == 0 ? 0 : __fdiv_rn(value, scale); }

template <class T>
__device__ __forceinline__ void store_codes(const Pack<typename T::storage, 8> &pack, float scale, u8 *to) {
    u32 words[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        float values[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) values[j] = scaled(T::widen(pack.values[i * 4 + j]), scale);
        words[i] = codes2(values[0], values[1]) | codes2(values[2], values[3]) << 16;
    }
    *reinterpret_cast<uint2 *>(to) = make_uint2(words[0], words[1]);
}

template <class T>
__device__ __forceinline__ void store_codes(const Pack<typename T::storage, 1> &pack, float scale, u8 *to) {
    *to = static_cast<u8>(codes2(scaled(T::widen(pack.values[0]), scale), 0));
}

// Codes of a row lie `pitch` bytes apart; those beyond its columns are 0.
template <class T, int COUNT, class Source>
__device__ void quantize(const Source source, u8 *codes, float *scales, int cols, int pitch) {
    const long long row = blockIdx.x;
    const int first = threadIdx.x * COUNT, stride = blockDim.x * COUNT, rest = first + HELD * stride;
    codes += row * pitch;
    Pack<typename T::storage, COUNT> held[HELD];
    u32 most = 0;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        if (first + i * stride >= cols) break;
        held[i] = source(row * cols + first + i * stride);
    }
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        if (first + i * stride >= cols) break;
        most = largest<T>(most, held[i]);
    }
    for (int at = rest; at < cols; at += stride) most = largest<T>(most, source(row * cols + at));
    const float scale = __fdiv_rn(__uint_as_float(largest_of_block(most)), 448.0f);
    if (threadIdx.x == 0) scales[row] = scale;
#pragma unroll
    for (int i = 0; i < HELD; ++i) {
        if (first + i * stride >= cols) break;
        store_codes<T>(held[i], scale, codes + first + i * stride);
    }
    for (int at = rest; at < cols; at += stride) store_codes<T>(source(row * cols + at), scale, codes + at);
    for (int at = cols + threadIdx.x; at < pitch; at += blockDim.x) codes[at] = 0;
}

}  // namespace

#define DEFINE(T, NAME, COUNT)                                                                                      \
    extern "C" __global__ void __launch_bounds__(MOST_WARPS * 32)                                                   \
        fp8_quantize_##NAME##_##COUNT(const T::storage *x, u8 *codes, float *scales, int cols, int pitch) {         \
        end_of_overlap();                                                                                           \
        quantize<T, COUNT>(Plain<T, COUNT>{x}, codes, scales, cols, pitch);                                         \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(MOST_WARPS * 32)                                                   \
        fp8_quantize_gated_##NAME##_##COUNT(const T::storage *gate, const T::storage *up, u8 *codes, float *scales, \
                                            int cols, int pitch) {                                                  \
        end_of_overlap();                                                                                           \
        quantize<T, COUNT>(Gated<T, COUNT>{gate, up}, codes, scales, cols, pitch);                                  \
    }
FOR_TYPES_AND_PACKS(DEFINE)

// What touches each value once. A thread handles COUNT neighbours; grids stride over any size.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"
#include "silu.cuh"

namespace {

template <int COUNT>
__device__ long long first_value() {
    return (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) * COUNT;
}

template <int COUNT>
__device__ long long stride() {
    return static_cast<long long>(gridDim.x) * blockDim.x * COUNT;
}

// x += y
template <class T, int COUNT>
__device__ void add(typename T::storage *x, const typename T::storage *y, long long values) {
    for (long long i = first_value<COUNT>(); i < values; i += stride<COUNT>()) {
        float a[COUNT], b[COUNT];
        load<T>(x + i, a);
        load<T>(y + i, b);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) a[j] += b[j];
        store<T>(a, x + i);
    }
}

// gate = gate / (1 + e^-gate) · up
template <class T, int COUNT>
__device__ void silu_product(typename T::storage *gate, const typename T::storage *up, long long values) {
    for (long long i = first_value<COUNT>(); i < values; i += stride<COUNT>()) {
        float a[COUNT], b[COUNT];
        load<T>(gate + i, a);
        load<T>(up + i, b);
#pragma unroll
        for (int j = 0; j < COUNT; ++j) a[j] = silu_times(a[j], b[j]);
        store<T>(a, gate + i);
    }
}

// Rows of f32 sums plus the bias, rounded once.
template <class T>
__device__ void add_bias(const float *sums, const float *bias, typename T::storage *out, long long values, int width) {
    for (long long i = first_value<1>(); i < values; i += stride<1>()) out[i] = T::narrow(sums[i] + bias[i % width]);
}

template <class T, int COUNT>
__device__ void widen_values(const typename T::storage *x, float *out, long long values) {
    for (long long i = first_value<COUNT>(); i < values; i += stride<COUNT>()) {
        float a[COUNT];
        load<T>(x + i, a);
        store<F32>(a, out + i);
    }
}

}  // namespace

#define DEFINE(T, NAME, COUNT)                                                                                      \
    extern "C" __global__ void add_##NAME##_##COUNT(T::storage *x, const T::storage *y, long long values) {                            \
        end_of_overlap();                                                                                           \
        add<T, COUNT>(x, y, values);                                                                                \
    }                                                                                                               \
    extern "C" __global__ void silu_product_##NAME##_##COUNT(T::storage *gate, const T::storage *up, long long values) {               \
        end_of_overlap();                                                                                           \
        silu_product<T, COUNT>(gate, up, values);                                                                   \
    }                                                                                                               \
    extern "C" __global__ void widen_##NAME##_##COUNT(const T::storage *x, float *out, long long values) {                    \
        end_of_overlap();                                                                                           \
        widen_values<T, COUNT>(x, out, values);                                                                     \
    }
FOR_TYPES_AND_PACKS(DEFINE)
#undef DEFINE

#define DEFINE(T, NAME)                                                                                          \
    extern "C" __global__ void add_bias_##NAME(const float *sums, const float *bias, T::storage *out, long long values,     \
                                               int width) {                                                       \
        end_of_overlap();                                                                                         \
        add_bias<T>(sums, bias, out, values, width);                                                              \
    }
FOR_TYPES(DEFINE)

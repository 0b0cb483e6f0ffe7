// Root mean square norms (Zhang and Sennrich 2019), one block a row: x / sqrt(mean(x²) + eps) · weight.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"

namespace {

// The sum over the block, the same for each thread; in a fixed order.
__device__ float block_sum(float value) {
    __shared__ float partial[32];
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (int warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
    return sum;
}

// With `delta`, x becomes round(x + delta) first: the residual stream.
template <class T, int COUNT>
__device__ void rms_norm(typename T::storage *x, const typename T::storage *delta, const float *weight, typename T::storage *out, int width, float eps) {
    end_of_overlap();
    const long long row = static_cast<long long>(blockIdx.x) * width;
    float sum = 0;
    for (int col = threadIdx.x * COUNT; col < width; col += blockDim.x * COUNT) {
        float values[COUNT];
        load<T>(x + row + col, values);
        if (delta) {
            float deltas[COUNT];
            load<T>(delta + row + col, deltas);
#pragma unroll
            for (int i = 0; i < COUNT; ++i) values[i] = T::widen(T::narrow(values[i] + deltas[i]));
            store<T>(values, x + row + col);
        }
#pragma unroll
        for (int i = 0; i < COUNT; ++i) sum += values[i] * values[i];
    }
    const float factor = 1.0f / sqrtf(block_sum(sum) / static_cast<float>(width) + eps);
    // Each thread reads again what it has read or written itself.
    for (int col = threadIdx.x * COUNT; col < width; col += blockDim.x * COUNT) {
        float values[COUNT], weights[COUNT];
        load<T>(x + row + col, values);
        load<F32>(weight + col, weights);
#pragma unroll
        for (int i = 0; i < COUNT; ++i) values[i] = values[i] * factor * weights[i];
        store<T>(values, out + row + col);
    }
}

}  // namespace

#define DEFINE(T, NAME, COUNT)                                                                             \
    extern "C" __global__ void rms_norm_##NAME##_##COUNT(T::storage *x, const T::storage *delta, const float *weight, T::storage *out, \
                                                         int width, float eps) {                           \
        rms_norm<T, COUNT>(x, delta, weight, out, width, eps);                                             \
    }
FOR_TYPES_AND_PACKS(DEFINE)

// Rotary position embeddings in place: halves a, b of each head become a cos - b sin, b cos + a sin.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"

namespace {

// Queries and keys in one launch; a thread turns COUNT pairs. cos and sin are [length, half].
template <class T, int COUNT>
__device__ void rope(typename T::storage *q, typename T::storage *k, const float *cos, const float *sin, int rows, int length, int q_heads, int k_heads,
                     int half) {
    end_of_overlap();
    const int steps = half / COUNT, heads = q_heads + k_heads;
    const long long index = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    if (index >= static_cast<long long>(rows) * heads * steps) return;
    const int step = index % steps;
    const int head = index / steps % heads;
    const long long row = index / steps / heads;
    const int pair = step * COUNT;
    typename T::storage *first = head < q_heads ? q + (row * q_heads + head) * 2 * half + pair
                              : k + (row * k_heads + head - q_heads) * 2 * half + pair;
    const int angle = static_cast<int>(row % length) * half + pair;
    float a[COUNT], b[COUNT], c[COUNT], s[COUNT];
    load<T>(first, a);
    load<T>(first + half, b);
    load<F32>(cos + angle, c);
    load<F32>(sin + angle, s);
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
        const float x = a[i] * c[i] - b[i] * s[i];
        b[i] = b[i] * c[i] + a[i] * s[i];
        a[i] = x;
    }
    store<T>(a, first);
    store<T>(b, first + half);
}

}  // namespace

#define DEFINE(T, NAME, COUNT)                                                                                     \
    extern "C" __global__ void rope_##NAME##_##COUNT(T::storage *q, T::storage *k, const float *cos, const float *sin, int rows,      \
                                                     int length, int q_heads, int k_heads, int half) {             \
        rope<T, COUNT>(q, k, cos, sin, rows, length, q_heads, k_heads, half);                                      \
    }
FOR_TYPES_AND_PACKS(DEFINE)

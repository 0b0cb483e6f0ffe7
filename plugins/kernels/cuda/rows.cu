// Whole rows: gathered by index, or averaged over a sequence.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"
#include "packs.cuh"

namespace {

// out[i] = table[indices[i]], a block a row. COUNT counts elements of the pack, not bytes.
template <class T, int COUNT>
__device__ void gather_rows(const typename T::storage *table, const unsigned *indices, typename T::storage *out, int width) {
    const typename T::storage *from = table + static_cast<long long>(indices[blockIdx.x]) * width;
    typename T::storage *to = out + static_cast<long long>(blockIdx.x) * width;
    for (int col = threadIdx.x * COUNT; col < width; col += blockDim.x * COUNT)
        *reinterpret_cast<Pack<typename T::storage, COUNT> *>(to + col) = *reinterpret_cast<const Pack<typename T::storage, COUNT> *>(from + col);
}

// Mean over the tokens of a sequence, padding left out; zeros for a sequence of padding. Sums in f64, in a fixed order.
// A block of 32 columns x 8 shares of the rows; grid (columns / 32, batch).
template <class T>
__device__ void mean_rows(const typename T::storage *x, const unsigned char *mask, long long mask_stride, float *out, int length,
                          int width) {
    __shared__ double sums[8][32];
    __shared__ int counts[8];
    const int lane = threadIdx.x % 32, share = threadIdx.x / 32, col = blockIdx.x * 32 + lane;
    const unsigned char *tokens = mask + blockIdx.y * mask_stride;
    const typename T::storage *sequence = x + static_cast<long long>(blockIdx.y) * length * width;
    double sum = 0;
    int count = 0;
    for (int row = share; row < length; row += 8) {
        if (!tokens[row]) continue;
        ++count;
        if (col < width) sum += T::widen(sequence[static_cast<long long>(row) * width + col]);
    }
    sums[share][lane] = sum;
    if (lane == 0) counts[share] = count;
    __syncthreads();
    if (share || col >= width) return;
    for (int other = 1; other < 8; ++other) {
        sum += sums[other][lane];
        count += counts[other];
    }
    out[static_cast<long long>(blockIdx.y) * width + col] = static_cast<float>(sum / (count > 1 ? count : 1));
}

}  // namespace

#define DEFINE(T, NAME, COUNT)                                                                                   \
    extern "C" __global__ void gather_rows_##NAME##_##COUNT(const T::storage *table, const unsigned *indices, T::storage *out,       \
                                                            int width) {                                          \
        gather_rows<T, COUNT>(table, indices, out, width);                                                        \
    }
FOR_TYPES_AND_PACKS(DEFINE)
#undef DEFINE

#define DEFINE(T, NAME)                                                                                        \
    extern "C" __global__ void mean_rows_##NAME(const T::storage *x, const unsigned char *mask, long long mask_stride,    \
                                                float *out, int length, int width) {                            \
        mean_rows<T>(x, mask, mask_stride, out, length, width);                                                 \
    }
FOR_TYPES(DEFINE)

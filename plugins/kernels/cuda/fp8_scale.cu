// Sums of products of codes become values: each times the scale of its token and that of its row, plus a bias.
// targets: sm_89 sm_90 sm_100 sm_120 compute_89
#include "numbers.cuh"
#include "overlap.cuh"
#include "packs.cuh"

// A block takes a token and some of the rows. Sums of a token lie `pitch` values apart.
#define DEFINE(T, NAME)                                                                                         \
    extern "C" __global__ void fp8_scale_##NAME(const float *sums, const float *token_scales,                   \
                                                const float *row_scales, const float *bias, T::storage *out,    \
                                                int rows, int pitch) {                                          \
        end_of_overlap();                                                                                       \
        const long long token = blockIdx.x;                                                                     \
        const float scale = token_scales[token];                                                                \
        for (int row = blockIdx.y * blockDim.x + threadIdx.x; row < rows; row += gridDim.y * blockDim.x) {      \
            float value = __fmul_rn(sums[token * pitch + row], __fmul_rn(scale, row_scales[row]));              \
            if (bias) value = __fadd_rn(value, bias[row]);                                                      \
            out[token * rows + row] = T::narrow(value);                                                         \
        }                                                                                                       \
    }
FOR_TYPES(DEFINE)

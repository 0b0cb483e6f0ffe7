// Reads memory and keeps nothing: the ceiling of every kernel that is bound by reading.
// targets: sm_80 sm_90 sm_100 sm_120 compute_80
#include "numbers.cuh"

extern "C" __global__ void __launch_bounds__(512) read_all(const uint4* data, u64 count, u32* never) {
    constexpr int AHEAD = 8;
    u64 threads = static_cast<u64>(gridDim.x) * blockDim.x;
    u32 mixed = 0;
    for (u64 i = static_cast<u64>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += threads * AHEAD) {
        uint4 value[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            value[j] = i + j * threads < count ? __ldcs(data + i + j * threads) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < AHEAD; j++) mixed ^= value[j].x ^ value[j].y ^ value[j].z ^ value[j].w;
    }
    // One chance in 2^32, so that the reads are not left out.
    if (mixed == 0x9e3779b9) *never = mixed;
}
